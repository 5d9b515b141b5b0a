/** Users who are to have the same role. Who they are stands in a table of its own, see app/groups.ts. */
import { z } from "zod";
import { roles } from "#kernel/ctx.ts";
import { defineResource, type Resource } from "../definition.ts";

export const groupSpec = z.strictObject({
  description: z.string().max(1024).default(""),
  role: z
    .enum(roles)
    .nullable()
    .default(null)
    .describe("what its members may do in its project; null: no more than they may anyway"),
});
export type GroupSpec = z.infer<typeof groupSpec>;

export const groupStatus = z.strictObject({});
export type GroupStatus = z.infer<typeof groupStatus>;

export const groupPhases = ["active", "deleting"] as const;
export type GroupPhase = (typeof groupPhases)[number];
export type Group = Resource<GroupSpec, GroupStatus, GroupPhase>;

export const group = defineResource<GroupSpec, GroupStatus, GroupPhase>({
  kind: "group",
  plural: "groups",
  idPrefixes: ["grp"],
  summary: "Users who have a role in the group's project together",
  scope: "directory",
  spec: groupSpec,
  status: groupStatus,
  immutable: [],
  phases: groupPhases,
  phase: ({ deletingAt }) => (deletingAt ? "deleting" : "active"),
  next: { active: ["deleting"], deleting: [] },
  settled: ["active"],
  verbs: {},
  references: {},
  filters: { role: { summary: "what its members may do", path: ["desired", "role"] } },
  access: { read: "admin", create: "admin", update: "admin", delete: "admin" },
  reconciled: false,
  uniqueNames: true,
  schemaVersion: 1,
  example: { name: "on-call", spec: { description: "who looks after it at night", role: "operator" } },
});

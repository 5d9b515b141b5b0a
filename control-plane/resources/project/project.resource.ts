/** A tenant: what its members make belongs to it, and counts against its quota. */
import { z } from "zod";
import { defineResource, type PhaseInput, type Resource } from "../definition.ts";

export const projectSpec = z.strictObject({
  description: z.string().max(1024).default(""),
  disabled: z.boolean().default(false).describe("nobody is let in any more; what runs runs on"),
  quota: z
    .record(z.string().regex(/^[a-z][a-z_]{0,62}$/), z.int().min(0).max(Number.MAX_SAFE_INTEGER))
    .default({})
    .describe(
      "most there may be of each, such as `instances` or `memory_bytes`; what is not named has no limit",
    ),
});
export type ProjectSpec = z.infer<typeof projectSpec>;

/** Nobody reports on a project. */
export const projectStatus = z.strictObject({});
export type ProjectStatus = z.infer<typeof projectStatus>;

export const projectPhases = ["active", "disabled"] as const;
export type ProjectPhase = (typeof projectPhases)[number];
export type Project = Resource<ProjectSpec, ProjectStatus, ProjectPhase>;

export const project = defineResource<ProjectSpec, ProjectStatus, ProjectPhase>({
  kind: "project",
  plural: "projects",
  idPrefixes: ["prj"],
  wellKnownIds: ["root"],
  summary: "A tenant of the cloud",
  scope: "directory",
  isProject: true,
  spec: projectSpec,
  status: projectStatus,
  immutable: [],
  phases: projectPhases,
  phase: (r: PhaseInput<ProjectSpec, ProjectStatus>) => (r.desired.disabled ? "disabled" : "active"),
  next: { active: ["disabled"], disabled: ["active"] },
  settled: projectPhases,
  verbs: {},
  references: {},
  filters: {},
  access: { read: "viewer", create: "cloud-admin", update: "cloud-admin", delete: "cloud-admin" },
  reconciled: false,
  uniqueNames: true,
  fixedName: true,
  schemaVersion: 1,
});

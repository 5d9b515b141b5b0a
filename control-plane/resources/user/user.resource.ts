/** Who may be somebody: a person with a password, or a service account that has API keys only. */
import { z } from "zod";
import { plans } from "#kernel/ctx.ts";
import { defineResource, type PhaseInput, type Resource } from "../definition.ts";

export const userSpec = z.strictObject({
  email: z.email().max(254).nullable().default(null),
  type: z.enum(["person", "service"]).default("person"),
  plan: z
    .enum(plans)
    .default("standard")
    .describe("limits of its rate; the cloud's administrators choose it"),
  disabled: z.boolean().default(false),
});
export type UserSpec = z.infer<typeof userSpec>;

export const userStatus = z.strictObject({ mfa_enabled: z.boolean() });
export type UserStatus = z.infer<typeof userStatus>;

export const userPhases = ["active", "disabled"] as const;
export type UserPhase = (typeof userPhases)[number];
export type User = Resource<UserSpec, UserStatus, UserPhase>;

/** Belongs to the project whose administrators look after it; its roles may reach further. */
export const user = defineResource<UserSpec, UserStatus, UserPhase>({
  kind: "user",
  plural: "users",
  idPrefixes: ["user"],
  summary: "A person or a service account",
  scope: "directory",
  spec: userSpec,
  status: userStatus,
  immutable: ["type"],
  phases: userPhases,
  phase: (r: PhaseInput<UserSpec, UserStatus>) => (r.desired.disabled ? "disabled" : "active"),
  next: { active: ["disabled"], disabled: ["active"] },
  settled: userPhases,
  verbs: {},
  references: {},
  filters: { type: { summary: "person or service", path: ["desired", "type"] } },
  access: { read: "admin", create: "admin", update: "admin", delete: "admin" },
  reconciled: false,
  uniqueNames: true,
  fixedName: true,
  schemaVersion: 1,
});

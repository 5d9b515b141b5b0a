import { z } from "zod";
import { defineResource, type PhaseInput, type Resource } from "../definition.ts";

export const enrolmentTokenSpec = z.strictObject({
  expires_in_seconds: z
    .int()
    .min(60)
    .max(7 * 86400)
    .default(3600),
  host_name: z
    .string()
    .min(1)
    .max(63)
    .nullable()
    .default(null)
    .describe("only a host of this name may use it"),
});
export type EnrolmentTokenSpec = z.infer<typeof enrolmentTokenSpec>;

export const enrolmentTokenStatus = z.strictObject({
  secret_hash: z.string().describe("SHA-256 of the secret; the secret itself is shown once"),
  expires_at: z.string(),
  used_at: z.string().nullable(),
  used_by: z.string().nullable(),
  used_key: z.string().nullable().describe("pin of the key that used it"),
});
export type EnrolmentTokenStatus = z.infer<typeof enrolmentTokenStatus>;

/** Expiry is a matter of the clock, so it is checked at use and not a phase. */
export const enrolmentTokenPhases = ["usable", "used", "deleting"] as const;
export type EnrolmentTokenPhase = (typeof enrolmentTokenPhases)[number];
export type EnrolmentToken = Resource<EnrolmentTokenSpec, EnrolmentTokenStatus, EnrolmentTokenPhase>;

function phase(r: PhaseInput<EnrolmentTokenSpec, EnrolmentTokenStatus>): EnrolmentTokenPhase {
  if (r.deletingAt) return "deleting";
  return r.observed?.used_at ? "used" : "usable";
}

export const enrolmentToken = defineResource<EnrolmentTokenSpec, EnrolmentTokenStatus, EnrolmentTokenPhase>({
  kind: "enrolment_token",
  plural: "enrolment-tokens",
  idPrefixes: ["tok"],
  summary: "Lets one host join, once",
  scope: "cloud",
  spec: enrolmentTokenSpec,
  status: enrolmentTokenStatus,
  immutable: ["expires_in_seconds", "host_name"],
  phases: enrolmentTokenPhases,
  phase,
  next: { usable: ["used", "deleting"], used: ["deleting"], deleting: [] },
  settled: ["usable", "used"],
  verbs: {},
  references: {},
  filters: {},
  access: { read: "cloud-admin", create: "cloud-admin", delete: "cloud-admin" },
  reconciled: false,
  uniqueNames: false,
  schemaVersion: 1,
});

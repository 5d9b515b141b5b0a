/**
 * A migration: the request to move an instance to another host, the record of how that went, and what
 * it cost. It is carried out by the instance's own pass (see `requestOf`); hosts' reports tell how far it is.
 */
import { z } from "zod";
import { Fault } from "#kernel/fault.ts";
import type { Instance } from "../instance/instance.resource.ts";
import { moveNeeds, moveTypeOf, postCopyCapability } from "./migration.plan.ts";
import { exampleMigration } from "./migration.example.ts";
import { defineResource, defineVerb, type PhaseInput, type Resource } from "../definition.ts";

export const migrationTypes = ["live", "cold", "postcopy"] as const;

export const migrationSpec = z.strictObject({
  instance: z.string().min(1).max(255).describe("id or name of the instance"),
  type: z
    .enum(migrationTypes)
    .default("live")
    .describe("an instance that is off moves cold whatever is asked; postcopy can lose the guest"),
  provider: z.string().min(1).max(63).nullable().default(null),
  region: z.string().min(1).max(63).nullable().default(null),
  host: z.string().min(1).max(255).nullable().default(null).describe("id or name of a host"),
  max_downtime_ms: z.int().min(1).max(600_000).default(1000),
  on_unreachable: z
    .enum(["abort", "throttle", "force", "postcopy"])
    .default("abort")
    .describe(
      "when the guest writes faster than the link carries: give up, slow it down, break the promise, or let it run before its memory has arrived, which can lose it",
    ),
  wan_optimization: z.enum(["auto", "on", "off"]).default("auto"),
  bandwidth_limit: z.int().min(1).nullable().default(null).describe("bytes per second on the wire"),
  cancel: z
    .boolean()
    .default(false)
    .describe("set by the verb; the move is called off unless it is committed"),
});
export type MigrationSpec = z.infer<typeof migrationSpec>;
/** What is given to ask for one: what has a default may be left out. */
export type MigrationInput = z.input<typeof migrationSpec>;

const site = z.strictObject({ host_id: z.string(), provider: z.string(), region: z.string() });

const stages = z.strictObject({
  memory_raw: z.int().describe("as the hypervisor wrote it"),
  memory_zero: z.int().describe("pages of zeros: named, not sent"),
  memory_in_image: z.int().describe("found in the image that both hosts have"),
  memory_wire: z.int(),
  disk_raw: z.int(),
  disk_wire: z.int(),
  disk_kept: z.int().describe("on disks that the target had kept since an earlier move: not sent"),
});

export const migrationProgress = z.strictObject({
  bytes_total: z.int().describe("of memory and disk that have to move, as far as known"),
  bytes_remaining: z.int(),
  bytes_sent: z.int().describe("on the wire"),
  dirty_rate: z.int().describe("bytes per second that the guest writes"),
  throughput: z.int().describe("bytes per second"),
  compression_ratio: z.number().nullable().describe("bytes on the wire / bytes that had to move"),
  predicted_downtime_ms: z.int(),
  rounds: z.int(),
  codec: z.string(),
  page_stage: z.boolean(),
  estimated_completion_at: z.string().nullable(),
});
export type MigrationProgress = z.infer<typeof migrationProgress>;

const convergence = z.strictObject({
  stalls: z.int().describe("how often rounds of its memory got nowhere"),
  throttle_percent: z.int().describe("the largest share of its CPU time that was taken away"),
  forced: z.boolean().describe("it was stopped although its rest did not fit into the time allowed"),
  post_copy_bytes: z.int().describe("sent after it ran at the target"),
  page_requests: z.int().describe("how often it waited there for a page"),
  recoveries: z.int().describe("connections made again while it did"),
});

export const migrationReceipt = z.strictObject({
  duration_ms: z.int(),
  downtime_ms: z
    .int()
    .nullable()
    .describe("from the source's stop to the target's run; null when it was off"),
  stopped_ms: z.int().describe("from the guest's stop until the source had confirmation that all arrived"),
  resumed_ms: z.int().describe("from the target's command to run until the guest ran"),
  phase_ms: z.record(z.string(), z.int()).describe("milliseconds in each phase"),
  bytes_total: z.int(),
  bytes_sent: z.int(),
  compression_ratio: z.number().nullable(),
  bytes: stages,
  rounds: z.int(),
  codec_history: z.array(z.strictObject({ codec: z.string(), at_ms: z.int() })),
  page_stage: z.boolean(),
  convergence: convergence.nullable().default(null).describe("null: not known"),
  cpu_seconds: z.strictObject({ source: z.number(), target: z.number() }),
});
export type MigrationReceipt = z.infer<typeof migrationReceipt>;

export const migrationPhases = [
  "preparing",
  "disk-copy",
  "pre-copy",
  "switchover",
  "post-copy",
  "complete",
  "failed",
  "cancelled",
] as const;
export type MigrationPhase = (typeof migrationPhases)[number];

export const migrationStatus = z.strictObject({
  stage: z.enum(migrationPhases).describe("how far it is; what the phase is computed from"),
  type: z.enum(migrationTypes).describe("as it is done, which is cold for an instance that is off"),
  source: site,
  target: site.nullable(),
  waiting_for: z.string().nullable().describe("what holds it up"),
  waiting_since: z.string().nullable(),
  progress: migrationProgress.nullable(),
  receipt: migrationReceipt.nullable(),
  error: z.strictObject({ reason: z.string(), message: z.string() }).nullable(),
  started_at: z.string(),
  committed_at: z.string().nullable().describe("when the target became the owner: no way back from there"),
  ended_at: z.string().nullable(),
});
export type MigrationStatus = z.infer<typeof migrationStatus>;
export type Migration = Resource<MigrationSpec, MigrationStatus, MigrationPhase>;

function phase({ observed }: PhaseInput<MigrationSpec, MigrationStatus>): MigrationPhase {
  return observed?.stage ?? "preparing";
}

const underWay = ["preparing", "disk-copy", "pre-copy", "switchover", "post-copy"] as const;
/** A round that was cut off begins again, so phases may also go back. */
const anyStage: readonly MigrationPhase[] = [...underWay, "complete", "failed", "cancelled"];

export const migration = defineResource<MigrationSpec, MigrationStatus, MigrationPhase>({
  kind: "migration",
  plural: "migrations",
  idPrefixes: ["mig"],
  summary: "Moves an instance to another host",
  scope: "project",
  spec: migrationSpec,
  status: migrationStatus,
  immutable: Object.keys(migrationSpec.shape).filter((field) => field !== "cancel"),
  phases: migrationPhases,
  phase,
  next: {
    preparing: anyStage,
    "disk-copy": anyStage,
    "pre-copy": anyStage,
    switchover: anyStage,
    "post-copy": ["complete", "failed"],
    complete: [],
    failed: [],
    cancelled: [],
  },
  settled: ["complete", "failed", "cancelled"],
  verbs: {
    cancel: defineVerb({
      summary: "Call it off; the instance stays where it is. Too late once the target owns it",
      when: underWay,
      input: z.strictObject({}),
      apply(r: Migration) {
        if (!r.observed?.committed_at) return { ...r.desired, cancel: true };
        throw new Fault("conflict", "the instance has moved already", { reason: "ALREADY_COMMITTED" });
      },
    }),
  },
  references: {
    instance: { kind: "instance", field: "instance", own: true },
    host: { kind: "host", field: "host" },
  },
  requestOf: "instance",
  requestWhen: ["running", "stopped"],
  requestNeeds(spec, target) {
    // No driver can: it has its description, and its files, where somebody else put them.
    if ((target as Instance).desired.adopted) {
      return { capability: "migration.adopted", reason: "ADOPTED_STAYS" };
    }
    const needs = moveNeeds(moveTypeOf(target as Instance, spec));
    return needs.capability === postCopyCapability ? needs : undefined;
  },
  frozenIn: migrationPhases,
  filters: {
    instance: { summary: "id of the instance", path: ["refs", "instance"] },
    type: { summary: "live, cold or postcopy", path: ["desired", "type"] },
  },
  access: { read: "viewer", create: "operator", update: "operator" },
  reconciled: true,
  uniqueNames: false,
  schemaVersion: 1,
  example: exampleMigration,
  site: ({ provider, region }) => ({ provider, region }),
});

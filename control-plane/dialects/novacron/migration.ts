/** A migration in NovaCron's words: everything that copies is `pre-copy`, durations are text. */
import { z } from "zod";
import { instance } from "../../resources/instance/instance.resource.ts";
import {
  migration,
  migrationPhases,
  migrationSpec,
  migrationTypes,
  type Migration,
  type MigrationPhase,
  type MigrationSpec,
} from "../../resources/migration/migration.resource.ts";
import { defineKind } from "../define-kind.ts";
import { phasesOf, withPrefix } from "../dialect.ts";
import { durationSchema, formatDuration } from "./duration.ts";

export const migrationStatuses = ["in_progress", "completed", "failed", "cancelled"] as const;
const migrationWords = ["pre-copy", "switchover", "post-copy", "complete", "failed", "cancelled"] as const;

/** Exhaustive: a new phase fails to compile here. */
export const statusOf = {
  preparing: "in_progress",
  "disk-copy": "in_progress",
  "pre-copy": "in_progress",
  switchover: "in_progress",
  "post-copy": "in_progress",
  complete: "completed",
  failed: "failed",
  cancelled: "cancelled",
} as const satisfies Record<MigrationPhase, (typeof migrationStatuses)[number]>;

const wordOf = {
  preparing: "pre-copy",
  "disk-copy": "pre-copy",
  "pre-copy": "pre-copy",
  switchover: "switchover",
  "post-copy": "post-copy",
  complete: "complete",
  failed: "failed",
  cancelled: "cancelled",
} as const satisfies Record<MigrationPhase, (typeof migrationWords)[number]>;

const { provider, region, host, on_unreachable, bandwidth_limit } = migrationSpec.shape;
const maxDowntime = durationSchema({ minMs: 1, maxMs: 600_000 });

export const migrateVm = z.strictObject({
  target_provider: provider.unwrap().optional(),
  target_region: region.unwrap().optional(),
  target_host: host.unwrap().optional().describe("id or name of a host"),
  migration_type: z.enum(migrationTypes).optional().describe("default: live"),
  enable_wan_optimization: z.boolean().optional().describe("default: as the link turns out to be"),
  max_downtime: maxDowntime.optional().describe("a promise; default: 1s"),
  on_unreachable: on_unreachable.unwrap().optional().describe("what becomes of the promise; default: abort"),
  bandwidth_limit: bandwidth_limit.unwrap().optional().describe("bytes per second on the wire"),
  dry_run: z.boolean().optional().describe("answer what it would be, and do nothing"),
});
export type MigrateVm = z.infer<typeof migrateVm>;

/** What a body asks for in the core's words. */
export function toMigrationSpec(body: MigrateVm, instanceId: string): MigrationSpec {
  const optimise = body.enable_wan_optimization;
  return {
    instance: instanceId,
    type: body.migration_type ?? "live",
    provider: body.target_provider ?? null,
    region: body.target_region ?? null,
    host: body.target_host ?? null,
    max_downtime_ms: body.max_downtime ?? 1000,
    on_unreachable: body.on_unreachable ?? "abort",
    wan_optimization: optimise === undefined ? "auto" : optimise ? "on" : "off",
    bandwidth_limit: body.bandwidth_limit ?? null,
    cancel: false,
  };
}

const fields = {
  provider: "target_provider",
  region: "target_region",
  host: "target_host",
  type: "migration_type",
  max_downtime_ms: "max_downtime",
  wan_optimization: "enable_wan_optimization",
  instance: "vm_id",
} as const;

export const migrationView = z.object({
  migration_id: z.string(),
  vm_id: z.string(),
  status: z.enum(migrationStatuses),
  phase: z.enum(migrationWords).describe("pre-copy for as long as anything is copied ahead"),
  source_provider: z.string().describe("empty until it has begun"),
  target_provider: z.string(),
  started_at: z.iso.datetime(),
  estimated_completion: z.iso.datetime().nullable(),
  completed_at: z.iso.datetime().nullable().describe("when it ended, however it did"),
  downtime: z.string().nullable().describe("how long the VM stood still, as both hosts measured it"),
  data_transferred: z.int().describe("bytes on the wire"),
  compression_ratio: z.number().nullable().describe("bytes on the wire / bytes that had to move"),
  stage: z.enum(migrationPhases).describe("the phase, more finely"),
  migration_type: z.enum(migrationTypes).describe("as it is done: cold for a VM that is off"),
  source_region: z.string(),
  target_region: z.string(),
  source_host_id: z.string().nullable(),
  target_host_id: z.string().nullable(),
  max_downtime: z.string(),
  on_unreachable: on_unreachable.unwrap(),
  predicted_downtime: z.string().nullable().describe("if it were stopped now"),
  bytes_total: z.int().describe("of memory and disk that have to move, as far as known"),
  bytes_remaining: z.int(),
  dirty_rate: z.int().describe("bytes per second that the guest writes"),
  throughput: z.int().describe("bytes per second"),
  waiting_for: z.string().nullable().describe("what holds it up"),
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
});
export type MigrationView = z.infer<typeof migrationView>;

export const migrationKind = defineKind({
  definition: migration,
  path: "/migrations",
  idName: "migration_id",
  noun: "Migration",
  type: "Migration",
  types: "Migrations",
  idPrefix: "mig",
  phases: statusOf,
  fields,
  wire: migrationView,
  encode: encodeMigration,
  pageSize: 20,
  filters: z.object({
    status: z.enum(migrationStatuses).optional(),
    vm_id: z.string().max(255).optional(),
  }),
  toQuery: ({ status, vm_id }) => ({
    ...(status && { phases: phasesOf(statusOf, status) }),
    ...(vm_id !== undefined && { filters: { instance: withPrefix(vm_id, instance.idPrefixes[0]) } }),
  }),
});

/** What is asked of a VM is told in its words. */
export const migratingWords = { fields, idName: "vm_id", noun: "VM" } as const;

/** Total, no clock, no I/O. */
export function encodeMigration(r: Migration): MigrationView {
  const { desired, observed } = r;
  const progress = observed?.progress ?? null;
  const receipt = observed?.receipt ?? null;
  const ended = observed?.ended_at ?? null;
  const downtimeMs = receipt?.downtime_ms ?? null;
  return {
    migration_id: withPrefix(r.id, "mig"),
    vm_id: withPrefix(r.refs["instance"] ?? desired.instance, "vm"),
    status: statusOf[r.phase],
    phase: wordOf[r.phase],
    source_provider: observed?.source.provider ?? "",
    target_provider: observed?.target?.provider ?? desired.provider ?? "",
    started_at: observed?.started_at ?? r.createdAt.toISOString(),
    estimated_completion: ended === null ? (progress?.estimated_completion_at ?? null) : null,
    completed_at: ended,
    downtime: downtimeMs === null ? null : formatDuration(downtimeMs),
    data_transferred: receipt?.bytes_sent ?? progress?.bytes_sent ?? 0,
    compression_ratio: receipt?.compression_ratio ?? progress?.compression_ratio ?? null,
    stage: r.phase,
    migration_type: observed?.type ?? desired.type,
    source_region: observed?.source.region ?? "",
    target_region: observed?.target?.region ?? desired.region ?? "",
    source_host_id: observed?.source.host_id ?? null,
    target_host_id: observed?.target?.host_id ?? null,
    max_downtime: formatDuration(desired.max_downtime_ms),
    on_unreachable: desired.on_unreachable,
    predicted_downtime: ended === null && progress ? formatDuration(progress.predicted_downtime_ms) : null,
    bytes_total: receipt?.bytes_total ?? progress?.bytes_total ?? 0,
    bytes_remaining: r.phase === "complete" ? 0 : (progress?.bytes_remaining ?? 0),
    dirty_rate: ended === null ? (progress?.dirty_rate ?? 0) : 0,
    throughput: ended === null ? (progress?.throughput ?? 0) : 0,
    waiting_for: observed?.waiting_for ?? null,
    error: errorOf(r),
  };
}

function errorOf({ observed, problem }: Migration): MigrationView["error"] {
  if (observed?.error) return { code: observed.error.reason, message: observed.error.message };
  return problem ? { code: problem.reason, message: problem.message } : null;
}

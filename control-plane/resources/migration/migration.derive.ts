/** Pure: what a migration's status is, from what the two hosts say of their parts in it. */
import type { Incarnation } from "../../engine/controller.ts";
import type { MoveObservation } from "../../engine/move.ts";
import type {
  Migration,
  MigrationPhase,
  MigrationProgress,
  MigrationReceipt,
  MigrationStatus,
} from "./migration.resource.ts";

/** What a host says of its part in this migration; undefined when it says nothing of it. */
export function moveOf(
  incarnation: Incarnation | undefined,
  migrationId: string,
): MoveObservation | undefined {
  const move = incarnation?.observed["move"] as MoveObservation | undefined;
  return move?.migration_id === migrationId ? move : undefined;
}

const stageOf: Readonly<Record<MoveObservation["phase"], MigrationPhase | undefined>> = {
  preparing: "preparing",
  ready: "preparing",
  "disk-copy": "disk-copy",
  "pre-copy": "pre-copy",
  converged: "pre-copy",
  switchover: "switchover",
  // Nobody runs yet: it waits for the commit.
  "post-copy": "switchover",
  "handed-over": "switchover",
  // Ended by whoever carries the migration out; until then it is where it was.
  failed: undefined,
};

/** The status of a migration under way, with the latest of its progress; undefined before it has begun. */
export function deriveMigration(
  migration: Migration,
  incarnations: readonly Incarnation[],
): MigrationStatus | undefined {
  const { observed, id } = migration;
  if (!observed || observed.ended_at) return undefined;
  const source = incarnations.find(({ hostId }) => hostId === observed.source.host_id);
  const move = moveOf(source, id);
  if (!source || !move) return undefined;
  const stage = observed.committed_at ? committedStage(observed, move) : stageOf[move.phase];
  return {
    ...observed,
    ...interruption(observed, move, source.updatedAt),
    stage: stage ?? observed.stage,
    progress: toProgress(move, source.updatedAt),
  };
}

/** Once committed there is only forward. */
function committedStage({ stage }: MigrationStatus, { phase }: MoveObservation): MigrationPhase {
  return stage === "post-copy" || phase === "post-copy" ? "post-copy" : "switchover";
}

/** A host may say what holds it up; that is over when it no longer does. */
function interruption(
  { waiting_for }: MigrationStatus,
  { reason, message, phase }: MoveObservation,
  at: Date,
): Partial<MigrationStatus> {
  const says = reason === "MOVE_INTERRUPTED" && phase === "post-copy";
  if (says && waiting_for === null) return { waiting_for: message, waiting_since: at.toISOString() };
  return !says && waiting_for === message ? { waiting_for: null, waiting_since: null } : {};
}

function toProgress(move: MoveObservation, at: Date): MigrationProgress {
  const { bytes_remaining, throughput } = move;
  const leftMs = throughput > 0 ? (bytes_remaining / throughput) * 1000 : undefined;
  return {
    bytes_total: move.bytes_total,
    bytes_remaining,
    bytes_sent: move.bytes_sent,
    dirty_rate: move.dirty_rate,
    throughput,
    compression_ratio: ratioOf(move),
    predicted_downtime_ms: move.predicted_downtime_ms,
    rounds: move.rounds,
    codec: move.codec,
    page_stage: move.page_stage,
    estimated_completion_at:
      leftMs === undefined ? null : new Date(Math.round(at.getTime() + leftMs)).toISOString(),
  };
}

/** Bytes on the wire for each byte of memory and disk that had to move. */
function ratioOf({ bytes, bytes_sent, bytes_total }: MoveObservation): number | null {
  const moved = bytes.memory_raw + bytes.memory_zero + bytes.disk_raw || bytes_total;
  return moved > 0 ? Math.round((bytes_sent / moved) * 1e4) / 1e4 : null;
}

/** When the control plane saw the two ends of the switch-over, by its own clock. */
export interface Switched {
  readonly handedOverAtMs: number;
  readonly ranAtMs: number;
}

/**
 * The downtime is what the source measured until all had arrived, and from there to the run: between the two
 * hosts by their clocks, which may be apart, but never more than the control plane waited and never less than
 * the target measured itself.
 */
export function deriveDowntime(
  source: MoveObservation | undefined,
  target: MoveObservation | undefined,
  { handedOverAtMs, ranAtMs }: Switched,
): number {
  const stopped = source?.stopped_ms ?? 0;
  const least = stopped + (target?.resumed_ms ?? 0);
  const most = Math.max(least, stopped + ranAtMs - handedOverAtMs);
  const byClocks = (target?.resumed_at_ms ?? 0) - (source?.stopped_at_ms ?? 0);
  const known = (source?.stopped_at_ms ?? 0) > 0 && (target?.resumed_at_ms ?? 0) > 0;
  return known ? Math.min(most, Math.max(least, byClocks)) : most;
}

/** What it cost, as far as the hosts have told. */
export function deriveReceipt(
  status: MigrationStatus,
  source: MoveObservation | undefined,
  target: MoveObservation | undefined,
  endedAtMs: number,
  switched: Switched | undefined,
): MigrationReceipt {
  const cold = status.type === "cold";
  return {
    duration_ms: Math.max(0, endedAtMs - Date.parse(status.started_at)),
    downtime_ms: switched && !cold ? deriveDowntime(source, target, switched) : null,
    stopped_ms: source?.stopped_ms ?? 0,
    resumed_ms: target?.resumed_ms ?? 0,
    phase_ms: source?.phase_ms ?? {},
    bytes_total: source?.bytes_total ?? 0,
    bytes_sent: source?.bytes_sent ?? 0,
    compression_ratio: source ? ratioOf(source) : null,
    bytes: source?.bytes ?? noBytes,
    rounds: source?.rounds ?? 0,
    codec_history: source?.codec_history ?? [],
    page_stage: source?.page_stage ?? false,
    convergence: source?.convergence ?? null,
    cpu_seconds: { source: source?.cpu_seconds ?? 0, target: target?.cpu_seconds ?? 0 },
  };
}

const noBytes = {
  memory_raw: 0,
  memory_zero: 0,
  memory_in_image: 0,
  memory_wire: 0,
  disk_raw: 0,
  disk_wire: 0,
  disk_kept: 0,
};

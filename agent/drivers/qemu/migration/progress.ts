/** How a move goes, told from its situation. Pure. */
import type { Move } from "#gen/skerry/agent/v1/migration_pb.js";
import type { SendProgress } from "../../driver.ts";
import type { Pace } from "./pace.ts";
import { diskBytes, type Situation } from "./situation.ts";

/** A move is near its end when no more than this is left. */
const convergedMs = 2_000;
/** Stopping, the last looks and the confirmation. */
const overheadMs = 30;

export interface ProgressInput {
  readonly begun: boolean;
  readonly move: Move;
  readonly pace: Pace;
  readonly stoppedAtMs: number | undefined;
}

/** Disks are equal or nearly so, and the rest of the memory is a matter of a moment. */
export function isNear(now: Situation, pace: Pace): boolean {
  const left = (now.migration.ram?.remaining ?? Infinity) + diskBytes(now).remaining;
  return pace.timeFor(left) <= convergedMs;
}

export function deriveProgress(now: Situation, input: ProgressInput): SendProgress {
  const { migration } = now;
  const { pace, stoppedAtMs } = input;
  const disk = diskBytes(now);
  const ram = input.begun ? migration.ram : undefined;
  const page = ram?.["page-size"] ?? 0;
  const remaining = disk.remaining + (ram?.remaining ?? 0);
  const phase = phaseOf(now, input);
  const leftMs = pace.timeFor(remaining);
  return {
    phase,
    bytesTotal: disk.total + (ram?.total ?? 0),
    bytesRemaining: remaining,
    zeroBytes: (ram?.duplicate ?? 0) * page,
    dirtyRate: (ram?.["dirty-pages-rate"] ?? 0) * page,
    throughput: Math.round(pace.throughput),
    rounds: ram?.["dirty-sync-count"] ?? 0,
    predictedDowntimeMs: Number.isFinite(leftMs) ? Math.round(leftMs + overheadMs) : 0,
    ...(stoppedAtMs !== undefined && (phase === "switchover" || phase === "handed-over") && { stoppedAtMs }),
    ...(phase === "handed-over" && timesOf(now)),
  };
}

function phaseOf(now: Situation, { begun, pace }: ProgressInput): SendProgress["phase"] {
  if (!begun) return "disk-copy";
  const { status = "none" } = now.migration;
  if (status === "completed") return "handed-over";
  if (status === "pre-switchover" || status === "device") return "switchover";
  if (status.startsWith("postcopy")) return "post-copy";
  return isNear(now, pace) ? "converged" : "pre-copy";
}

function timesOf({ migration }: Situation): { readonly stoppedMs?: number } {
  return migration["total-time"] ? { stoppedMs: migration.downtime ?? 0 } : {};
}

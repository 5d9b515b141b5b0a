/** How a move goes, told from its situation. Pure. */
import type { SendProgress } from "../../driver.ts";
import type { Pace } from "./pace.ts";
import { diskBytes, type Situation } from "./situation.ts";

/** A move is near its end when no more than this is left. */
const convergedMs = 2_000;
/** Stopping, the last looks and the confirmation. */
const overheadMs = 30;

export interface ProgressInput {
  readonly begun: boolean;
  /** As `isNear` said. */
  readonly near: boolean;
  readonly pace: Pace;
  readonly stoppedAtMs: number | undefined;
  /** What the guest has. QEMU's own total counts the room for memory that was never plugged in. */
  readonly memoryBytes: number;
}

/** What is left is a matter of a moment. One that was near is so until it is far again: rounds swing. */
export function isNear(now: Situation, pace: Pace, before: boolean): boolean {
  const left = (now.migration.ram?.remaining ?? Infinity) + diskBytes(now).remaining;
  return pace.timeFor(left) <= (before ? 2 * convergedMs : convergedMs);
}

export function deriveProgress(now: Situation, input: ProgressInput): SendProgress {
  const { migration } = now;
  const { pace, stoppedAtMs } = input;
  const disk = diskBytes(now);
  const ram = input.begun ? migration.ram : undefined;
  const page = ram?.["page-size"] ?? 0;
  const remaining = disk.remaining + (ram?.remaining ?? input.memoryBytes);
  const phase = phaseOf(now, input);
  const leftMs = pace.timeFor(remaining);
  return {
    phase,
    bytesTotal: disk.total + input.memoryBytes,
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

function phaseOf(now: Situation, { begun, near }: ProgressInput): SendProgress["phase"] {
  if (!begun) return "disk-copy";
  const { runState, migration } = now;
  const { status = "none" } = migration;
  if (status === "completed" && runState === "postmigrate") return "handed-over";
  if (["pre-switchover", "device", "completed"].includes(status)) return "switchover";
  if (status.startsWith("postcopy")) return "post-copy";
  return near ? "converged" : "pre-copy";
}

function timesOf({ migration }: Situation): { readonly stoppedMs?: number } {
  return migration["total-time"] ? { stoppedMs: migration.downtime ?? 0 } : {};
}

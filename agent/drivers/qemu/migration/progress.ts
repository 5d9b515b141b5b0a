/** How a move goes, told from its situation. Pure. */
import type { Convergence, SendProgress } from "../../driver.ts";
import type { Pace } from "./pace.ts";
import { diskBytes, isCopied, type Situation } from "./situation.ts";

/** A move is near its end when no more than this is left. */
const convergedMs = 2_000;
/** Stopping, the last looks and the confirmation. */
const overheadMs = 30;
/** Of a post-copy: its connection is there, and carries the guest's state (which newer versions tell apart) or its memory. */
const flowing: ReadonlySet<string> = new Set(["postcopy-device", "postcopy-active"]);

export interface ProgressInput {
  readonly begun: boolean;
  /** As `isNear` said. */
  readonly near: boolean;
  readonly pace: Pace;
  /** What is left of the memory is to follow the guest. */
  readonly postCopy: boolean;
  /** The guest may run at the destination already. */
  readonly committed: boolean;
  readonly stoppedAtMs: number | undefined;
  readonly nowMs: number;
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
  const { pace } = input;
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
    dirtyRate: Math.round(pace.dirtyRate) || (ram?.["dirty-pages-rate"] ?? 0) * page,
    throughput: Math.round(pace.throughput),
    rounds: ram?.["dirty-sync-count"] ?? 0,
    predictedDowntimeMs: Number.isFinite(leftMs) ? Math.round(leftMs + overheadMs) : 0,
    ...timesOf(now, phase, input),
    ...(migration.status?.startsWith("postcopy-") && { interrupted: !flowing.has(migration.status) }),
  };
}

/** What QEMU knows of a struggle with the guest; the counts since it was told last are the caller's. */
export function deriveConvergence({ migration }: Situation, counts: Struggles): Convergence {
  const { ram } = migration;
  return {
    ...counts,
    throttlePercent: migration["cpu-throttle-percentage"] ?? 0,
    postCopyBytes: ram?.["postcopy-bytes"] ?? 0,
    pageRequests: ram?.["postcopy-requests"] ?? 0,
  };
}

export type Struggles = Pick<Convergence, "stalls" | "recoveries" | "forced">;

function phaseOf(now: Situation, { begun, near, postCopy, committed }: ProgressInput): SendProgress["phase"] {
  if (!begun) return "disk-copy";
  const { runState, migration, disks } = now;
  const { status = "none" } = migration;
  if (status === "completed" && runState === "postmigrate") return "handed-over";
  if (status.startsWith("postcopy")) return "post-copy";
  if (["pre-switchover", "device", "completed"].includes(status)) {
    return postCopy && (committed || disks.every(isCopied)) ? "post-copy" : "switchover";
  }
  return near ? "converged" : "pre-copy";
}

function timesOf(
  { migration }: Situation,
  phase: SendProgress["phase"],
  { postCopy, committed, stoppedAtMs, nowMs }: ProgressInput,
): Pick<SendProgress, "stoppedAtMs" | "stoppedMs"> {
  if (phase !== "switchover" && phase !== "post-copy" && phase !== "handed-over") return {};
  const at = stoppedAtMs === undefined ? {} : { stoppedAtMs };
  // Of a post-copy only the time before the commit is the source's: the rest is seen at the destination.
  if (postCopy)
    return stoppedAtMs === undefined || committed ? at : { ...at, stoppedMs: nowMs - stoppedAtMs };
  const isKnown = phase === "handed-over" && migration["total-time"];
  return isKnown ? { ...at, stoppedMs: migration.downtime ?? 0 } : at;
}

/** What to do about a machine that ended without having been asked to. Pure. */
import { RestartPolicy } from "#gen/skerry/agent/v1/machine_pb.js";
import type { LedgerEntry } from "./entry.ts";

export interface RestartLimits {
  /** So many crashes within the window are answered with a restart; the next is the last. */
  readonly crashes: number;
  readonly windowMs: number;
}

export type RestartDecision =
  | { readonly do: "rest"; readonly reason: "GUEST_POWERED_OFF" | "CRASHED" }
  /** `attempt`: restarts already made within the window; the wait grows with it. */
  | { readonly do: "restart"; readonly attempt: number }
  | { readonly do: "give-up" };

export function decideRestart(
  policy: RestartPolicy,
  clean: boolean,
  crashedAtMs: readonly number[],
  nowMs: number,
  limits: RestartLimits,
): RestartDecision {
  const rests = policy === RestartPolicy.NEVER || (clean && policy !== RestartPolicy.ALWAYS);
  if (rests) return { do: "rest", reason: clean ? "GUEST_POWERED_OFF" : "CRASHED" };
  const recent = recentCrashes(crashedAtMs, nowMs, limits).length;
  return recent >= limits.crashes ? { do: "give-up" } : { do: "restart", attempt: recent };
}

/** The crashes that still count; a clock that was set back does not make an old one recent for ever. */
export function recentCrashes(
  crashedAtMs: readonly number[],
  nowMs: number,
  { windowMs, crashes }: RestartLimits,
): readonly number[] {
  return crashedAtMs.filter((at) => Math.abs(nowMs - at) < windowMs).slice(-crashes);
}

/** Whether a machine was as it was to be when it ended, and that end has not been answered. */
export function isUnanswered({ intent, progress }: LedgerEntry, endedAt: Date): boolean {
  if (!intent.spec || progress.halt || intent.spec.restarts > progress.restarts) return false;
  const answered = progress.crashedAtMs.some((at) => at >= endedAt.getTime());
  return !answered && intent.fence.generation <= progress.generationReached;
}

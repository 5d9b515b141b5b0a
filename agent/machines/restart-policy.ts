/** What to do about a machine that ended without having been asked to. Pure. */
import { type Fault, isFault } from "#kernel/fault.ts";
import { RestartPolicy } from "#gen/skerry/agent/v1/machine_pb.js";
import { MovePhase, MoveRole } from "#gen/skerry/agent/v1/migration_pb.js";
import type { Halt, LedgerEntry, Progress } from "./entry.ts";

export interface RestartLimits {
  /** So many crashes within the window are answered with a restart; the next is the last. */
  readonly crashes: number;
  readonly windowMs: number;
}

type EndReason = "GUEST_POWERED_OFF" | "CRASHED";

export type RestartDecision =
  | { readonly do: "rest"; readonly reason: EndReason }
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
  if (rests) return { do: "rest", reason: reasonOf(clean) };
  const recent = recentCrashes(crashedAtMs, nowMs, limits).length;
  return recent >= limits.crashes ? { do: "give-up" } : { do: "restart", attempt: recent };
}

/** What comes after an end that nobody asked for, and what the ledger notes of it. */
export interface EndAnswer {
  readonly note: Partial<Progress>;
  readonly answer:
    | { readonly do: "rest"; readonly halt: Halt }
    | { readonly do: "restart"; readonly attempt: number; readonly reason: EndReason }
    | { readonly do: "give-up"; readonly message: string };
}

export function answerEnd(
  { intent, progress }: LedgerEntry,
  policy: RestartPolicy,
  clean: boolean,
  nowMs: number,
  limits: RestartLimits,
): EndAnswer {
  const decision = decideRestart(policy, clean, progress.crashedAtMs, nowMs, limits);
  if (decision.do === "rest") {
    const message = clean ? "the guest powered itself off" : "the machine crashed";
    const halt = { reason: decision.reason, message, generation: intent.fence.generation };
    const crashes = progress.crashes + (clean ? 0n : 1n);
    return { note: { halt, crashes }, answer: { do: "rest", halt } };
  }
  const crashedAtMs = [...recentCrashes(progress.crashedAtMs, nowMs, limits), nowMs];
  const note = { crashes: progress.crashes + 1n, crashedAtMs };
  if (decision.do === "give-up") {
    const message = `the machine ended ${String(crashedAtMs.length)} times in a short while`;
    return { note, answer: { do: "give-up", message } };
  }
  return { note, answer: { ...decision, reason: reasonOf(clean) } };
}

const reasonOf = (clean: boolean): EndReason => (clean ? "GUEST_POWERED_OFF" : "CRASHED");

/** The crashes that still count; a clock that was set back does not make an old one recent for ever. */
function recentCrashes(
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

/**
 * True when the host has no room for what has been here as it was asked to be, or has come here in a move: nobody else
 * has it, so it is tried again until there is room. What is asked for anew is refused instead.
 */
export function waitsForRoom({ intent, progress }: LedgerEntry, fault: Fault): boolean {
  if (!isFault(fault, "exhausted") || !intent.spec || intent.spec.move) return false;
  return intent.fence.generation <= progress.generationReached || hasComeAndNotRun(progress);
}

function hasComeAndNotRun({ move }: Progress): boolean {
  const isWhole = move?.role === MoveRole.DESTINATION && move.phase === MovePhase.HANDED_OVER;
  return isWhole && move.resumedAtMs === 0n;
}

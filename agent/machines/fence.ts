/**
 * Who may write. An intent is accepted only in the order (epoch, generation): this is what makes a
 * late or repeated command harmless, so it is decided where the effect lands and nowhere else.
 */
import { Fault } from "#kernel/fault.ts";

export interface Fence {
  /** Orders writers. */
  readonly epoch: bigint;
  /** Counts the user's changes. */
  readonly generation: bigint;
}

/** Negative, zero or positive, as `a` is before, equal to or after `b`. */
export function compareFences(a: Fence, b: Fence): number {
  const difference = a.epoch - b.epoch || a.generation - b.generation;
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

/**
 * What to do with an intent that arrives under `given` while `held` is the newest accepted: `accept` it,
 * or `replay` the answer because it is the very same one. Throws `stale` for a lower fence, and
 * `conflict` for the same fence with other content, which is a bug of the sender.
 */
export function admitFence(
  held: Fence | undefined,
  given: Fence,
  sameContent: () => boolean,
): "accept" | "replay" {
  const order = held ? compareFences(given, held) : 1;
  if (order > 0) return "accept";
  const detail = { given: shown(given), held: shown(held ?? given) };
  if (order < 0) {
    throw new Fault("stale", "a newer command has been accepted", { reason: "FENCE_STALE", detail });
  }
  if (sameContent()) return "replay";
  throw new Fault("conflict", "another command was accepted under the same fence", {
    reason: "FENCE_CONTENT_DIFFERS",
    detail,
  });
}

function shown({ epoch, generation }: Fence) {
  return { epoch: String(epoch), generation: String(generation) };
}

/**
 * What comes after the commit of a post-copy: the guest runs at the target while the source sends the rest of its memory.
 * The commit comes before the source sends the guest's state, not after: until then a source can go on, and from then on
 * it never can. What is lost now is the guest's memory; its disk is whole at the target.
 */
import { isFault } from "#kernel/fault.ts";
import type { Effects, StepResult, View } from "../../engine/controller.ts";
import type { MoveObservation } from "../../engine/move.ts";
import { specOf } from "./instance.actions.ts";
import type { Instance } from "./instance.resource.ts";
import {
  type Answer,
  awaitHost,
  awayLimitMs,
  lookAgainMs,
  type MoveView,
  movingSpec,
  tell,
  waitOn,
} from "./move.ts";

/** Well within a claim's lease; a guest that takes longer is waited for again. */
const runWaitMs = 15_000;
/** The source's figures are worth waiting for so long, once all has arrived. */
const lastWordMs = 3_000;

/** The source has stopped the guest for good, and has some of its memory yet. */
export function isPostCopy({ phase }: Pick<MoveObservation, "phase">): boolean {
  return phase === "post-copy";
}

/** Tells both hosts at the same time; the answer is the target's. The steps say it again to whom it has not reached. */
export async function followAtOnce(effects: Effects, view: View<Instance>, move: MoveView): Promise<Answer> {
  const [answer] = await Promise.all([tellTarget(effects, view, move), tellSource(effects, view, move)]);
  return answer;
}

/** Tells the source; done as well when there is nobody left to tell. */
export async function tellRest(effects: Effects, view: View<Instance>, move: MoveView): Promise<StepResult> {
  if (lossOf(move)) return { done: null };
  const away = await awaitSource(effects, move);
  if (away === "lost") return { done: null };
  if (away) return away;
  const answer = await tellSource(effects, view, move);
  return { done: null, commit: (writes) => writes.observeMachine(move.plan.source, answer) };
}

/** Tells the target; done once the guest runs there, or never will with this memory. */
export async function runWithoutMemory(
  effects: Effects,
  view: View<Instance>,
  move: MoveView,
): Promise<StepResult> {
  const { plan, migration, target, received } = move;
  const hostId = plan.target.host_id;
  if (received && (isPostCopy(received) || received.phase === "handed-over")) {
    return { done: { at_ms: received.resumed_at_ms || (target?.updatedAt.getTime() ?? effects.now()) } };
  }
  if (lossOf(move)) return { done: { at_ms: effects.now() } };
  const away = await awaitHost(effects, migration, hostId, awayLimitMs.never);
  if (away) return away;
  const answer = await tellTarget(effects, view, move);
  const phase = answer.move?.phase;
  const isOver = phase === "post-copy" || phase === "handed-over" || phase === "failed";
  if (!isOver) return waitOn(effects, hostId, answer, "the target is starting it", 1_000);
  return { done: { at_ms: effects.now() }, commit: (writes) => writes.observeMachine(hostId, answer) };
}

interface Loss {
  readonly reason: string;
  readonly message: string;
}

/** Waits until all has arrived or will not, and ends the target's part in the move: `lost` says how that went wrong. */
export async function awaitRest(
  effects: Effects,
  view: View<Instance>,
  move: MoveView,
): Promise<{ readonly lost: Loss | undefined } | Extract<StepResult, { wait: number }>> {
  const { plan, migration, received, sent, target } = move;
  const hostId = plan.target.host_id;
  const isWhole = received?.phase === "handed-over";
  let isLost = lossOf(move) !== undefined;
  if (!isWhole && !isLost) {
    const away = await awaitSource(effects, move);
    if (away === "lost") isLost = true;
    else return away ?? { wait: effects.now() + lookAgainMs, why: "the source still sends memory" };
  }
  const told = target?.updatedAt.getTime() ?? 0;
  if (isWhole && sent && isPostCopy(sent) && effects.now() - told < lastWordMs)
    return { wait: told + lastWordMs, why: "the source has yet to say that it has sent all" };
  const away = await awaitHost(effects, migration, hostId, awayLimitMs.never);
  if (away) return away;
  const answer = await tell(effects, view, hostId, specOf(view), runWaitMs);
  await effects.write((writes) => writes.observeMachine(hostId, answer));
  if (isWhole) return { lost: undefined };
  const message =
    lossOf(move) === "target"
      ? `the guest ended during post-copy: ${received?.message ?? "its host no longer has it"}`
      : `the guest's memory was lost with host ${plan.source} during post-copy`;
  return { lost: { reason: "GUEST_LOST", message: `${message}; it starts again from its disk` } };
}

/** With whom memory was lost; undefined when it was not, as far as anybody knows. */
function lossOf({ source, target, sent, received }: MoveView): "source" | "target" | undefined {
  if (received?.phase === "handed-over") return undefined;
  if (!source || source.state === "absent" || sent?.phase === "failed") return "source";
  if (target?.state === "absent" || received?.phase === "failed") return "target";
  return undefined;
}

async function awaitSource(
  effects: Effects,
  { migration, plan }: MoveView,
): Promise<Extract<StepResult, { wait: number }> | "lost" | undefined> {
  try {
    return await awaitHost(effects, migration, plan.source, awayLimitMs.postCopy);
  } catch (error) {
    if (isFault(error, "conflict")) return "lost";
    throw error;
  }
}

const tellSource = (effects: Effects, view: View<Instance>, move: MoveView): Promise<Answer> => {
  const spec = movingSpec(view, move, { role: "source", switchOver: true, committed: true });
  return tell(effects, view, move.plan.source, spec, runWaitMs);
};

const tellTarget = (effects: Effects, view: View<Instance>, move: MoveView): Promise<Answer> => {
  const spec = movingSpec(view, move, { role: "destination", committed: true });
  return tell(effects, view, move.plan.target.host_id, spec, runWaitMs);
};

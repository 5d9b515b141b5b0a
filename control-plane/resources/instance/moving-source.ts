/** What a migration tells the source before it is to send, and when it need not any more. */
import type { Effects, OperationRecord, StepResult, View } from "../../engine/controller.ts";
import { specOf } from "./instance.actions.ts";
import { mayLeaveLost } from "./instance.lost.ts";
import type { Instance } from "./instance.resource.ts";
import { awaitHost, awayLimitMs, moveView, movingSpec, tell, type MovePlan, type MoveView } from "./move.ts";

const resumeWaitMs = 2_000;

/**
 * The source gets ready while the target does, where it need not know what the target will have. Nothing depends on it:
 * the step that follows tells it the same, and hears what it says to that.
 */
export async function warnSource(effects: Effects, view: View<Instance>, move: MoveView): Promise<void> {
  const { plan } = move;
  if (!isWarned(plan) || !effects.agents.connected().includes(plan.source)) return;
  const spec = movingSpec(view, move, { role: "source", switchOver: false });
  try {
    await tell(effects, view, plan.source, spec, 0);
  } catch (error) {
    effects.log.info("migrate.source_not_warned", { host: plan.source, error });
  }
}

/** Whether the source may have heard of the move before its step began. */
export function isWarned({ type, baseline = "" }: MovePlan): boolean {
  return type === "live" && baseline === "";
}

/** The record says that nothing was committed: the source may go on, whatever it has sent. */
export async function goOnAtSource(
  effects: Effects,
  view: View<Instance>,
  operation: OperationRecord,
): Promise<StepResult> {
  const { plan, migration, source } = moveView(view, operation);
  // Whatever a lost source has of it is a stale copy as soon as it runs elsewhere.
  if (source?.state === "absent" || mayLeaveLost(view)) return { done: null };
  const away = await awaitHost(effects, migration, plan.source, awayLimitMs.never);
  if (away) return away;
  const answer = await tell(effects, view, plan.source, specOf(view), resumeWaitMs);
  return { done: null, commit: (writes) => writes.observeMachine(plan.source, answer) };
}

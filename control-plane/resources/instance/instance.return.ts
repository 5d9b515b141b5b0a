/**
 * The way back of a move that was committed and whose target could not take over: it never ran the guest, which still
 * stands at the source as it was handed over. The record goes back to the source once the target has nothing of it any
 * more, and only then does the guest go on. What has run at the target for a moment never comes back.
 */
import type { Effects, StepResult, View, Writes } from "../../engine/controller.ts";
import type { Migration, MigrationStatus } from "../migration/migration.resource.ts";
import { removeFromHost, specOf } from "./instance.actions.ts";
import { concludedStatus } from "./instance.conclude.ts";
import type { Instance } from "./instance.resource.ts";
import { awaitHost, awayLimitMs, lookAgainMs, type MoveView, tell, waitOn } from "./move.ts";

/** A driver's word that it has not run what it was to take over, for lack of some of it. */
const neverRan = "MOVE_INCOMPLETE";
const resumeWaitMs = 15_000;

export type Why = { readonly reason: string; readonly message: string };

/** What the step `run` puts down when it has given the instance back. */
export interface Returned {
  readonly returned: Why;
}

/** Why the instance is on its way back to the source, if it is. */
export function findReturn({ migration }: MoveView): Why | undefined {
  return migration.observed?.error ?? undefined;
}

/** True when the target's failure leaves the source as the only one that has the guest. */
export function canReturn({ plan, source }: MoveView, { reason }: Why): boolean {
  return reason === neverRan && plan.type === "live" && source !== undefined && source.state !== "absent";
}

/** From here on there is only the way back, whoever carries it out. */
export function noteReturn(writes: Writes, { id }: Migration, why: Why): Promise<void> {
  const { reason, message } = why;
  return writes.changeRequest(id, (request) => ({
    ...(request.observed as MigrationStatus),
    error: { reason, message },
  }));
}

/** Takes what there is from the target and gives the record back; the guest stands still meanwhile. */
export async function returnRecord(
  effects: Effects,
  view: View<Instance>,
  { migration, plan }: MoveView,
  why: Why,
): Promise<StepResult> {
  const targetId = plan.target.host_id;
  const away = await awaitHost(effects, migration, targetId, awayLimitMs.never);
  if (away) return away;
  if (!(await removeFromHost(effects, view, targetId)))
    return { wait: effects.now() + lookAgainMs, why: "the target is removing what had arrived" };
  const zone = (await effects.findHost(plan.source))?.zone ?? "";
  return {
    done: { returned: { reason: why.reason, message: why.message } } satisfies Returned,
    async commit(writes) {
      await writes.release(targetId);
      await writes.forgetIncarnation(targetId);
      let placed: MigrationStatus["source"] | undefined;
      await writes.changeRequest(migration.id, (request) => {
        const observed = request.observed as MigrationStatus;
        placed = observed.source;
        return { ...observed, committed_at: null };
      });
      if (placed) await writes.place({ ...placed, zone, explanation: { returned_from: targetId } });
    },
  };
}

/** Lets the guest go on at the source, and ends the migration. */
export async function resumeAtSource(
  effects: Effects,
  view: View<Instance>,
  { migration, plan }: MoveView,
  why: Why,
): Promise<StepResult> {
  const away = await awaitHost(effects, migration, plan.source, awayLimitMs.never);
  if (away) return away;
  const answer = await tell(effects, view, plan.source, specOf(view), resumeWaitMs);
  if (answer.generation < view.resource.generation)
    return waitOn(effects, plan.source, answer, "the source is resuming it", 1_000);
  return {
    done: { source: plan.source },
    async commit(writes) {
      await writes.observeMachine(plan.source, answer);
      await writes.changeRequest(migration.id, (request) =>
        concludedStatus(view, request as Migration, why, effects.now()),
      );
    },
  };
}

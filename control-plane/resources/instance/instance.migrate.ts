/**
 * The operation `migrate`: the target is prepared, the source sends while its guest runs, and once little is
 * left the source stops and hands over. Then the record says that the target owns the instance: the point of
 * no return. Before it every step is undone by telling the source to go on and the target to forget; after it
 * there is only forward, but for a target that never ran it (instance.return.ts). What is left at the source is removed by the instance's reconciliation.
 */
import { randomBytes } from "node:crypto";
import { Fault, isFault, type Json } from "#kernel/fault.ts";
import type { Operation, Step, StepResult } from "../../engine/controller.ts";
import type { MoveObservation } from "../../engine/move.ts";
import type { HostSnapshot } from "../../scheduler/snapshot.ts";
import { deriveReceipt } from "../migration/migration.derive.ts";
import { guestModelOf, moveNeeds, moveRequest, moveTypeOf } from "../migration/migration.plan.ts";
import type { Migration, MigrationStatus } from "../migration/migration.resource.ts";
import { constraintsOf } from "./constraints.ts";
import { removeFromHost, specOf } from "./instance.actions.ts";
import { neededFor, ownerOf } from "./instance.decide.ts";
import { reserveFirst } from "./instance.place.ts";
import type { Instance, InstanceStatus } from "./instance.resource.ts";
import {
  canReturn,
  findReturn,
  noteReturn,
  resumeAtSource,
  type Returned,
  returnRecord,
} from "./instance.return.ts";
import {
  awayLimitMs,
  awaitHost,
  baselineOf,
  lookAgainMs,
  migrationOf,
  moveView,
  movingSpec,
  refuseCancelled,
  refuseFailed,
  refuseFailure,
  refuseStalled,
  tell,
  waitOn,
  type MigrateInput,
  type MovePlan,
  type Prepared,
} from "./move.ts";
import { goOnAtSource, isWarned, warnSource } from "./moving-source.ts";
import { awaitRest, followAtOnce, isPostCopy, runWithoutMemory, tellRest } from "./post-copy.ts";

const ensureWaitMs = 2_000;
/** Well within a claim's lease; a hand-over that takes longer is waited for again. */
const handOverWaitMs = 15_000;
const ticketBytes = 32;
const ticketLifeMs = 7 * 86_400_000;

const place: Step<Instance> = {
  name: "place",
  async run(effects, view, operation) {
    const { resource } = view;
    const migration = migrationOf(view, operation);
    refuseCancelled(migration);
    const { generation } = operation.input as unknown as MigrateInput;
    const source = resource.hostId && (await effects.findHost(resource.hostId));
    if (!source)
      throw new Fault("conflict", "the instance's host is not known", { reason: "SOURCE_UNKNOWN" });
    const type = moveTypeOf(resource, migration.desired);
    const { capability, reason } = moveNeeds(type);
    if (!source.capabilities.includes(capability))
      throw new Fault("conflict", `the driver of the instance's host has no ${capability}`, { reason });
    const owner = ownerOf(resource, view.incarnations);
    const amounts = neededFor(resource, owner?.observed as unknown as InstanceStatus | undefined);
    const model = guestModelOf(source, owner);
    const asked = moveRequest(view, migration, type, { source, model }, amounts);
    const request = { ...constraintsOf(resource), ...asked };
    const choice = await effects.choose({ ...request, seed: operation.id });
    if ("unplaceable" in choice) {
      throw new Fault("exhausted", `no host can take it: ${choice.why}`, { reason: "NO_HOST" });
    }
    return {
      done: null,
      commit: async (writes) => {
        const host = await reserveFirst(writes, choice.hosts, amounts);
        await writes.expectGeneration(generation);
        const { provider, region, zone } = host;
        const { explanation } = choice;
        const target = { host_id: host.id, provider, region, zone, explanation };
        const started_at = new Date(effects.now()).toISOString();
        await writes.changeRequest(migration.id, () => begun(type, source, host, started_at));
        return {
          type,
          source: source.id,
          target,
          ticket: randomBytes(ticketBytes).toString("base64"),
          expires_at_ms: effects.now() + ticketLifeMs,
          peer_address: source.listenAddress,
          ...model,
          baseline: baselineOf(owner),
        } satisfies MovePlan;
      },
    };
  },
  async undo(_effects, { resource, reserved }) {
    return {
      done: null,
      commit: async (writes) => {
        for (const { hostId } of reserved) if (hostId !== resource.hostId) await writes.release(hostId);
      },
    };
  },
};

function begun(
  type: MigrationStatus["type"],
  source: HostSnapshot,
  target: HostSnapshot,
  started_at: string,
): MigrationStatus {
  return {
    stage: "preparing",
    type,
    source: { host_id: source.id, provider: source.provider, region: source.region },
    target: { host_id: target.id, provider: target.provider, region: target.region },
    waiting_for: null,
    waiting_since: null,
    progress: null,
    receipt: null,
    error: null,
    started_at,
    committed_at: null,
    ended_at: null,
  };
}

const prepare: Step<Instance> = {
  name: "prepare",
  async run(effects, view, operation) {
    const move = moveView(view, operation);
    refuseCancelled(move.migration);
    refuseFailed(move);
    const { received, plan } = move;
    const hostId = plan.target.host_id;
    if (received && received.phase !== "preparing") return { done: preparedBy(received) };
    if (received) {
      refuseStalled(move.target, effects.now());
      return { wait: effects.now() + lookAgainMs, why: "the target is being prepared" };
    }
    const away = await awaitHost(effects, move.migration, hostId, awayLimitMs.before);
    if (away) return away;
    const spec = movingSpec(view, move, { role: "destination" });
    const [answer] = await Promise.all([
      tell(effects, view, hostId, spec, ensureWaitMs),
      warnSource(effects, view, move),
    ]);
    if (answer.move) refuseFailure(answer.move);
    if (answer.move?.phase !== "ready")
      return waitOn(effects, hostId, answer, "the target is being prepared");
    return { done: preparedBy(answer.move), commit: (writes) => writes.observeMachine(hostId, answer) };
  },
  async undo(effects, view, operation) {
    const { plan, migration, prepared } = moveView(view, operation);
    // Once the target was ready it is the next step that undoes this.
    const resumed = !prepared && isWarned(plan) && (await goOnAtSource(effects, view, operation));
    if (resumed && "wait" in resumed) return resumed;
    const hostId = plan.target.host_id;
    try {
      const away = await awaitHost(effects, migration, hostId, awayLimitMs.target);
      if (away) return away;
    } catch (error) {
      // What it may have is removed when it is back: by then it is a stale copy like any other.
      if (isFault(error, "conflict")) return { done: null };
      throw error;
    }
    if (!(await removeFromHost(effects, view, hostId))) {
      return { wait: effects.now() + lookAgainMs, why: "the target is removing what had arrived" };
    }
    return { done: null, commit: (writes) => writes.forgetIncarnation(hostId) };
  },
};

/** On the record before the source hears of it: whatever is reported later, it copies for the disks that are there. */
function preparedBy({ baseline }: MoveObservation): Prepared & { readonly [name: string]: Json } {
  return { baseline };
}

const transferred: readonly MoveObservation["phase"][] = [
  "converged",
  "switchover",
  "post-copy",
  "handed-over",
];

const transfer: Step<Instance> = {
  name: "transfer",
  async run(effects, view, operation) {
    const move = moveView(view, operation);
    refuseCancelled(move.migration);
    refuseFailed(move);
    const { sent, plan, source } = move;
    if (sent && transferred.includes(sent.phase)) return { done: null };
    // One that prepares was told ahead, and nobody has heard what it says to that.
    if (sent && sent.phase !== "preparing") {
      refuseStalled(source, effects.now());
      return { wait: effects.now() + lookAgainMs, why: "the source is sending" };
    }
    const away = await awaitHost(effects, move.migration, plan.source, awayLimitMs.before);
    if (away) return away;
    const spec = movingSpec(view, move, { role: "source", switchOver: false });
    if (plan.type === "cold" && source?.state !== "stopped") {
      delete spec.move;
      const answer = await tell(effects, view, plan.source, spec, ensureWaitMs);
      const waitMs = answer.state === "stopped" ? 0 : lookAgainMs;
      return waitOn(effects, plan.source, answer, "the guest is shutting down", waitMs);
    }
    const answer = await tell(effects, view, plan.source, spec, ensureWaitMs);
    if (answer.move) refuseFailure(answer.move);
    const done = answer.move !== undefined && transferred.includes(answer.move.phase);
    if (!done) return waitOn(effects, plan.source, answer, "the source is sending");
    return { done: null, commit: (writes) => writes.observeMachine(plan.source, answer) };
  },
  undo: goOnAtSource,
};

/** What the step `switch-over` puts down. */
interface HandedOver {
  readonly at_ms: number;
  readonly move: MoveObservation;
}

/** From the source's answer on the guest stands still: this step's commit and the next one's command end that. */
const switchOver: Step<Instance> = {
  name: "switch-over",
  pointOfNoReturn: true,
  async run(effects, view, operation) {
    const move = moveView(view, operation);
    const { migration, plan } = move;
    refuseCancelled(migration);
    refuseFailed(move);
    const commit = (sent: MoveObservation) =>
      commitMove(migration, plan, sent, effects.now(), async () => {
        const answer = isPostCopy(sent)
          ? await followAtOnce(effects, view, move)
          : await tell(effects, view, plan.target.host_id, specOf(view), handOverWaitMs);
        await effects.write((writes) => writes.observeMachine(plan.target.host_id, answer));
      });
    if (isHandedOver(move.sent)) return commit(move.sent);
    const away = await awaitHost(effects, migration, plan.source, awayLimitMs.before);
    if (away) return away;
    refuseStalled(move.source, effects.now());
    const spec = movingSpec(view, move, { role: "source", switchOver: true });
    const answer = await tell(effects, view, plan.source, spec, handOverWaitMs);
    if (answer.move) refuseFailure(answer.move);
    if (isHandedOver(answer.move)) return commit(answer.move);
    return waitOn(effects, plan.source, answer, "the source is handing over", 0);
  },
};

/** The guest is stopped for good; in post-copy its memory is to follow it. */
function isHandedOver(move: MoveObservation | undefined): move is MoveObservation {
  return move !== undefined && (move.phase === "handed-over" || isPostCopy(move));
}

/** @param ahead tells the target to run, before anything else is looked at */
function commitMove(
  { id }: Migration,
  { target }: MovePlan,
  move: MoveObservation,
  now: number,
  ahead: () => Promise<void>,
): StepResult {
  return {
    done: { at_ms: now, move } satisfies HandedOver,
    ahead,
    commit: async (writes) => {
      await writes.changeRequest(id, (request) => {
        refuseCancelled(request as Migration);
        const observed = request.observed as MigrationStatus;
        return { ...observed, stage: "switchover", committed_at: new Date(now).toISOString() };
      });
      await writes.place(target);
    },
  };
}

/** Of a post-copy: the source is told that it may send what only it still has. */
const sendRest: Step<Instance> = {
  name: "send-rest",
  async run(effects, view, operation) {
    const { move } = operation.outputs["switch-over"] as unknown as HandedOver;
    return isPostCopy(move) ? tellRest(effects, view, moveView(view, operation)) : { done: null };
  },
};

const run: Step<Instance> = {
  name: "run",
  async run(effects, view, operation) {
    const move = moveView(view, operation);
    const handedOver = operation.outputs["switch-over"] as unknown as HandedOver;
    if (isPostCopy(handedOver.move)) return runWithoutMemory(effects, view, move);
    const { migration, plan, target } = move;
    const hostId = plan.target.host_id;
    const why = findReturn(move);
    if (why) return await returnRecord(effects, view, move, why);
    if (target?.state === "absent") {
      // To ensure it now would make a new one with an empty disk; the source still has the old one.
      throw new Fault("conflict", "the target lost the instance after it was handed over", {
        reason: "TARGET_LOST",
      });
    }
    const { resource } = view;
    if (target && target.state === "running" && target.generation >= resource.generation) {
      return { done: { at_ms: target.updatedAt.getTime() } };
    }
    const away = await awaitHost(effects, migration, hostId, awayLimitMs.never);
    if (away) return away;
    const answer = await tell(effects, view, hostId, specOf(view), handOverWaitMs);
    if (answer.state === "failed") {
      const { reason, message } = answer.observed as unknown as InstanceStatus;
      const failure = {
        reason: reason || "MACHINE_FAILED",
        message: message || "the target could not run it",
      };
      if (canReturn(move, failure)) {
        await effects.write((writes) => noteReturn(writes, migration, failure));
        return { wait: effects.now(), why: "the instance goes back to the source" };
      }
      throw new Fault("conflict", failure.message, { reason: failure.reason });
    }
    if (answer.generation < resource.generation) {
      return waitOn(effects, hostId, answer, "the target is starting it", 1_000);
    }
    return { done: { at_ms: effects.now() }, commit: (writes) => writes.observeMachine(hostId, answer) };
  },
};

const finish: Step<Instance> = {
  name: "finish",
  async run(effects, view, operation) {
    const move = moveView(view, operation);
    const { migration, plan, target, received } = move;
    const { returned } = (operation.outputs["run"] ?? {}) as Partial<Returned>;
    if (returned) return await resumeAtSource(effects, view, move, returned);
    const handedOver = operation.outputs["switch-over"] as unknown as HandedOver;
    const rest = isPostCopy(handedOver.move) ? await awaitRest(effects, view, move) : undefined;
    if (rest && "wait" in rest) return rest;
    // Only after a post-copy has the source something left to say.
    const sent = (rest && move.sent) ?? handedOver.move;
    const ran = operation.outputs["run"] as { at_ms: number };
    const switched = { handedOverAtMs: handedOver.at_ms, ranAtMs: ran.at_ms };
    const endedAt = effects.now();
    const told = received ?? (target?.observed["move"] as MoveObservation | undefined);
    return {
      done: { source: plan.source },
      commit: (writes) =>
        writes.changeRequest(migration.id, (request) => {
          const observed = request.observed as MigrationStatus;
          const receipt = deriveReceipt(observed, sent, told, endedAt, switched);
          const ended_at = new Date(endedAt).toISOString();
          return {
            ...observed,
            ...(rest?.lost ? { stage: "failed", error: rest.lost } : { stage: "complete" }),
            waiting_for: null,
            waiting_since: null,
            receipt,
            ended_at,
          };
        }),
    };
  },
};

export const migrateOperation: Operation<Instance> = {
  name: "migrate",
  version: 1,
  steps: [place, prepare, transfer, switchOver, sendRest, run, finish],
};

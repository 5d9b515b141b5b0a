/**
 * One pass over one key: look, decide, do at most one thing, look again, until there is nothing to do
 * now. The decision is pure; what it asks for is done under the claim's fence.
 */
import { Fault, toFault, type Json } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs } from "#kernel/retry.ts";
import type { AgentPort } from "../agents/port.ts";
import type { Problem, Resource } from "../resources/definition.ts";
import type { Database } from "../store/database.ts";
import type { AnyController, Decision, Effects, Operation, Reserved, View } from "./controller.ts";
import type { Fleet } from "./fleet.ts";
import type { KindRegistry } from "./observe.ts";
import { advanceOperation, startOperation, type OperationEffects } from "./operation.ts";
import type { Promises } from "./promises.ts";
import { loadView } from "./view.ts";
import { firstEpochOf, overtake, type Claim } from "./work.ts";
import { fencedWrite } from "./writes.ts";

export interface PassDependencies {
  readonly database: Database;
  readonly registry: KindRegistry;
  readonly agents: AgentPort;
  readonly fleet: Fleet;
  readonly promises: Promises;
  readonly log: Logger;
  readonly now: () => number;
  /** Called after a commit that others may wait for. */
  readonly onChange: () => void;
  /** A named place where tests stop the world; nothing in production. */
  readonly pausePoint?: (name: string) => Promise<void>;
}

export interface PassOutcome {
  /** When to look again, Unix ms; undefined when settled. */
  readonly next: number | undefined;
  /** The host that further work needs. */
  readonly hostId: string | undefined;
  readonly progressed: boolean;
  readonly error: Json;
}

/** A pass that has done this much gives the others a turn. */
const maxRounds = 16;
const retryBackoff = { baseMs: 250, capMs: 60_000 };
/** From this try on the owner sees why nothing moves. */
const shownAttempt = 3;

export async function runPass(
  deps: PassDependencies,
  claim: Claim,
  signal: AbortSignal,
): Promise<PassOutcome> {
  const commands = countCommands(claim);
  let view: View | undefined;
  /** How all is after a step, when its own writes tell: looking is most of what a pass costs. */
  let next: View | undefined;
  let progressed = false;
  try {
    for (let round = 0; round < maxRounds; round++) {
      const before = view;
      view = next ?? (await loadView(deps.database, claim.key));
      if (before && view && view.resource.phase !== before.resource.phase && view.dependents > 0) {
        await wakeDependents(deps.database, view.resource);
      }
      const controller = view && deps.registry.controller(view.resource.kind);
      if (!view || !controller) return { next: undefined, hostId: undefined, progressed: true, error: null };
      const step = await takeStep({ ...deps, commands }, claim, view, controller, signal);
      if (step.go === "on") {
        progressed = true;
        next = step.view;
        deps.onChange();
        await deps.pausePoint?.(`${view.resource.kind}:${step.did}`);
        continue;
      }
      const hostId = step.hostId ?? view.resource.hostId;
      return { next: step.until, hostId, progressed: true, error: null };
    }
    return { next: deps.now(), hostId: view?.resource.hostId, progressed, error: null };
  } catch (error) {
    const fault = toFault(error);
    if (fault.code === "stale" && fault.reason === "LEASE_LOST") throw fault;
    const held = heldEpochOf(fault);
    if (held !== undefined && (await overtake(deps.database, claim, held))) {
      deps.log.warn("engine.host_ahead", { key: claim.key, epoch: claim.epoch, held: String(held) });
      throw new Fault("stale", "the host has accepted newer commands", {
        reason: "LEASE_LOST",
        cause: fault,
      });
    }
    return recordFailure(deps, claim, view, fault, progressed);
  }
}

type StepTaken =
  | { readonly go: "on"; readonly did: string; readonly view?: View | undefined }
  | { readonly go: "rest"; readonly until: number | undefined; readonly hostId?: string | undefined };

/** Who stands on a resource looks again when its phase changes; the one that is missed here finds out by waiting. */
async function wakeDependents(database: Database, { id, kind }: Resource): Promise<void> {
  await database.query(
    `update work set dirty_seq = dirty_seq + 1, run_at = least(run_at, now()) where key in (
       select r.id from resource r where r.refs @> jsonb_build_object($2::text, $1::text))`,
    [id, kind],
  );
}

function countCommands(claim: Claim): () => bigint {
  let epoch = firstEpochOf(claim);
  return () => epoch++;
}

interface StepDependencies extends PassDependencies {
  /** Gives each command of the pass its epoch. */
  readonly commands: () => bigint;
}

async function takeStep(
  deps: StepDependencies,
  claim: Claim,
  view: View,
  controller: AnyController,
  signal: AbortSignal,
): Promise<StepTaken> {
  const effects = effectsFor(deps, claim, view, signal);
  if (view.operation) {
    const { name, version } = view.operation;
    const operation: Operation | undefined = controller.operations.find(
      (o) => o.name === name && o.version === version,
    );
    if (!operation)
      throw new Fault("internal", `this release does not know operation ${name}@${String(version)}`);
    const progress = await advanceOperation(effects, view, operation);
    if (progress.go === "on") return { go: "on", did: name, view: progress.view };
    return { go: "rest", until: progress.until, hostId: progress.hostId };
  }
  if (isStuck(view) && view.requests.length === 0) return { go: "rest", until: undefined };
  return follow(controller.decide(view, deps.now()), effects, view, controller);
}

async function follow(
  decision: Decision,
  effects: OperationEffects,
  view: View,
  controller: AnyController,
): Promise<StepTaken> {
  switch (decision.do) {
    case "settle":
      if (view.resource.problem) await effects.write((writes) => writes.setProblem(undefined));
      return { go: "rest", until: undefined };
    case "wait":
      if (decision.problem) {
        const problem = toProblem(view, decision.problem, false, effects.now());
        await effects.write((writes) => writes.setProblem(problem));
      }
      return { go: "rest", until: decision.until, hostId: decision.hostId };
    case "stick":
      await effects.write((writes) => writes.setProblem(toProblem(view, decision, true, effects.now())));
      return { go: "rest", until: undefined };
    case "act": {
      const action = controller.actions[decision.action];
      if (!action) throw new Fault("internal", `there is no action ${decision.action}`);
      await action(effects, view, decision.input ?? null);
      return { go: "on", did: decision.action };
    }
    case "start": {
      const operation: Operation | undefined = controller.operations.findLast(
        (o) => o.name === decision.operation,
      );
      if (!operation) throw new Fault("internal", `there is no operation ${decision.operation}`);
      const next = await startOperation(effects, view, operation, decision.input);
      return { go: "on", did: decision.operation, view: next };
    }
  }
}

/** Stuck stays stuck until its owner changes something, or wants it gone. */
function isStuck({ resource }: View): boolean {
  const { problem } = resource;
  return (
    !resource.deletingAt &&
    problem !== undefined &&
    problem.stuck &&
    problem.generation >= resource.generation
  );
}

function effectsFor(deps: StepDependencies, claim: Claim, view: View, signal: AbortSignal): OperationEffects {
  const { database, registry, log } = deps;
  const { resource } = view;
  let promised: Reserved | undefined;
  const writeRecord: OperationEffects["writeRecord"] = (work) =>
    fencedWrite(database, registry, claim, log, work);
  const effects: Effects = {
    agents: deps.agents,
    signal,
    log,
    nextFence: () => ({ epoch: deps.commands(), generation: BigInt(resource.generation) }),
    now: deps.now,
    findHost: async (id) => (await deps.fleet.hosts()).find((host) => host.id === id),
    choose: (request) => deps.fleet.choose(request),
    async promise(request) {
      await deps.fleet.taking(request.hostId, request, () => deps.promises.make(claim, request));
      promised = request;
    },
    refreshHosts: () => deps.fleet.refresh(),
    write: writeRecord,
  };
  return { ...effects, writeRecord, promised: () => promised };
}

async function recordFailure(
  deps: PassDependencies,
  claim: Claim,
  view: View | undefined,
  fault: Fault,
  progressed: boolean,
): Promise<PassOutcome> {
  const { code, reason, message } = fault;
  const passing = fault.retryable || code === "internal" || code === "stale";
  const attempt = progressed ? 1 : claim.attempt;
  deps.log[code === "internal" ? "error" : "warn"]("engine.pass_failed", { key: claim.key, attempt, fault });
  const shown = view && (!passing || attempt >= shownAttempt);
  if (shown) {
    const problem = toProblem(view, { reason, message }, !passing, deps.now());
    await fencedWrite(deps.database, deps.registry, claim, deps.log, (writes) =>
      writes.setProblem(problem),
    ).catch((error: unknown) => deps.log.warn("engine.problem_not_stored", { key: claim.key, error }));
  }
  return {
    next: passing ? deps.now() + backoffMs(attempt, retryBackoff) : undefined,
    hostId: elsewhere(fault) ?? view?.resource.hostId,
    progressed,
    error: { code, reason, message },
  };
}

/** What the host holds that refused a command as old. */
function heldEpochOf({ reason, detail }: Fault): bigint | undefined {
  if (reason !== "FENCE_STALE") return undefined;
  const epoch = (detail as { readonly held?: { readonly epoch?: unknown } } | null)?.held?.epoch;
  return typeof epoch === "string" && /^\d{1,19}$/.test(epoch) ? BigInt(epoch) : undefined;
}

/** A host that is not connected here may be with another replica, which then takes the key. */
function elsewhere({ reason, detail }: Fault): string | undefined {
  if (reason !== "HOST_NOT_CONNECTED" || typeof detail !== "object" || detail === null) return undefined;
  return "host_id" in detail && typeof detail.host_id === "string" ? detail.host_id : undefined;
}

function toProblem(
  { resource }: View,
  why: { readonly reason: string; readonly message: string },
  stuck: boolean,
  now: number,
): Problem {
  const known = resource.problem?.reason === why.reason ? resource.problem.since : undefined;
  const { reason, message } = why;
  return {
    reason,
    message,
    stuck,
    generation: resource.generation,
    since: known ?? new Date(now).toISOString(),
  };
}

/**
 * What every operation must stand, tried on real machines and a real database: each step and each undo
 * run twice, a failure before and after each step's effect, and a replica's death after each commit.
 */
import type { Test } from "tap";
import type { Operation, Step } from "#cp/engine/controller.ts";
import { instanceController } from "#cp/resources/instance/instance.controller.ts";
import type { Instance } from "#cp/resources/instance/instance.resource.ts";
import { Fault } from "#kernel/fault.ts";
import type { Replica, World, WorldAgent } from "./engine-world.ts";

type InstanceOperation = Operation<Instance>;
type InstanceStep = Step<Instance>;

/** An intent whose carrying out is looked at. */
export interface Scenario {
  /** Leaves an instance that is at rest; undefined when the intent itself makes it. */
  readonly prepare: ((world: World<WorldAgent>, replica: Replica) => Promise<string>) | undefined;
  /** Says what the user wants; gives the instance's id. */
  readonly act: (replica: Replica, prepared: string) => Promise<string>;
  /** The phase that it comes to in the end; undefined: gone. */
  readonly ends: string | undefined;
}

/**
 * Tries an operation's scenario with every step and undo doubled, and with each step failing: for good before
 * the point of no return, for a while after it.
 */
export async function verifyOperation(
  t: Test,
  world: World<WorldAgent>,
  name: string,
  scenario: Scenario,
  /** Phase in which it may end when a step has failed for good. */
  endsFailed: string,
): Promise<void> {
  const operation = instanceController.operations.findLast((candidate) => candidate.name === name);
  if (!operation) throw new Error(`there is no operation ${name}`);

  await tryOnce(
    t,
    world,
    scenario,
    `${name}: each step twice`,
    replaceSteps(operation, runTwice),
    scenario.ends,
  );
  const committed = operation.steps.findIndex((step) => step.pointOfNoReturn);
  for (const [position, { name: step }] of operation.steps.entries()) {
    if (committed >= 0 && position > committed) {
      const failing = replaceSteps(operation, (s) => (s.name === step ? failOnce(s) : s));
      await tryOnce(t, world, scenario, `${name}: ${step} fails once`, failing, scenario.ends);
      continue;
    }
    for (const when of ["before", "after"] as const) {
      const failing = replaceSteps(operation, (s) => undoTwice(s.name === step ? failAt(s, when) : s));
      await tryOnce(t, world, scenario, `${name}: ${step} fails ${when} its effect`, failing, endsFailed);
    }
  }
}

/** Kills the replica that works on it after its first, second, ... commit; another takes over each time. */
export async function verifyDeaths(
  t: Test,
  world: World<WorldAgent>,
  name: string,
  scenario: Scenario,
): Promise<void> {
  for (let commits = 1; ; commits++) {
    const ids = await intend(world, scenario);
    const mortal = await world.replica({ diesAfterCommits: commits });
    const finished = world.untilSettled(ids, scenario.ends).then(() => "finished" as const);
    const outcome = await Promise.race([mortal.died.then(() => "died" as const), finished]);
    finished.catch(() => undefined); // with a dead replica it may well time out; the successor is waited for below
    await mortal.stop();
    const successor = await world.replica();
    await world.untilPhase(ids, scenario.ends);
    t.strictSame(await world.lastingViolations(), [], `${name}: a death after commit ${String(commits)}`);
    await successor.stop();
    if (outcome === "finished") return;
  }
}

/** The intent is stored by replicas that do no work themselves, so that the one under test does it all. */
async function intend(world: World<WorldAgent>, { prepare, act }: Scenario): Promise<string> {
  const worker = await world.replica();
  const prepared = prepare ? await prepare(world, worker) : "";
  await worker.stop();
  const idle = await world.replica({ url: "http://idle", works: false });
  const id = await act(idle, prepared);
  await idle.stop();
  return id;
}

async function tryOnce(
  t: Test,
  world: World<WorldAgent>,
  scenario: Scenario,
  what: string,
  operation: InstanceOperation,
  ends: string | undefined,
): Promise<void> {
  const id = await intend(world, scenario);
  const operations = instanceController.operations.map((known) =>
    known.name === operation.name ? operation : known,
  );
  const replica = await world.replica({ controller: { ...instanceController, operations } });
  await world.untilPhase(id, ends);
  t.strictSame(await world.lastingViolations(), [], what);
  await replica.stop();
}

function replaceSteps(
  operation: InstanceOperation,
  replace: (step: InstanceStep) => InstanceStep,
): InstanceOperation {
  return { ...operation, steps: operation.steps.map(replace) };
}

const runTwice = (step: InstanceStep): InstanceStep => ({
  ...step,
  async run(...args) {
    await step.run(...args);
    return step.run(...args);
  },
});

function undoTwice(step: InstanceStep): InstanceStep {
  const { undo } = step;
  if (!undo) return step;
  return {
    ...step,
    async undo(...args) {
      await undo(...args);
      return undo(...args);
    },
  };
}

const failAt = (step: InstanceStep, when: "before" | "after"): InstanceStep => ({
  ...step,
  async run(...args) {
    if (when === "after") await step.run(...args);
    throw new Fault("invalid", `the test fails ${step.name} ${when} its effect`, { reason: "TEST_FAILURE" });
  },
});

function failOnce(step: InstanceStep): InstanceStep {
  let failed = false;
  return {
    ...step,
    async run(...args) {
      if (failed) return step.run(...args);
      failed = true;
      await step.run(...args);
      throw new Fault("unavailable", `the test fails ${step.name} once`, { reason: "TEST_FAILURE" });
    },
  };
}

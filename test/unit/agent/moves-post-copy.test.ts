/** A move whose guest runs at the destination before its memory is there: committed, called off, cut and lost. */
import t from "tap";
import {
  type Machine,
  type MachineSpec,
  MachineState,
  RestartPolicy,
} from "#gen/skerry/agent/v1/machine_pb.js";
import { MovePhase, MoveRole, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import { machineId } from "#test/support/piped-host.ts";
import { inOrder, PipedWorld } from "#test/support/piped-world.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, PAUSED, STOPPED } = MachineState;
const { POST_COPY, HANDED_OVER, FAILED } = MovePhase;
const { SOURCE, DESTINATION } = MoveRole;

/** A guest that writes faster than it leaves, and a move that may let its memory follow it. */
async function makeFollower(change: Partial<MachineSpec> = {}): Promise<PipedWorld> {
  const world = await PipedWorld.start({ postCopy: true, dirtyPages: 16, pagesPerSecond: 4000 });
  world.change = { type: MoveType.POSTCOPY, maxDowntimeMs: 1 };
  await world.begin(change);
  t.match(await world.handOver(), { state: PAUSED, move: { phase: POST_COPY } }, "it stopped for good");
  return world;
}

/** The record says that the guest is the destination's. */
async function commit(world: PipedWorld, change: Partial<MachineSpec> = {}): Promise<Machine> {
  Object.assign(world.change, { committed: true });
  const [, runs] = await Promise.all([
    world.ensure(world.source, world.move(SOURCE, true), change),
    world.ensure(world.destination, world.move(DESTINATION), change),
  ]);
  return runs;
}

await t.test("post-copy: a guest that writes too fast runs before its memory is there", async (t) => {
  await using world = await makeFollower();
  const { source, destination } = world;
  t.ok((source.view?.move?.convergence?.stalls ?? 0) > 0, "what it struggled with is told");
  t.same([await source.runs(), await destination.runs()], [false, false], "nobody runs before the commit");
  const early = await world.ensure(destination);
  t.match(early, { state: MachineState.FAILED, reason: "MOVE_INCOMPLETE" }, "nor without its state");
  t.match(await commit(world), { state: RUNNING, move: { phase: POST_COPY } });
  await Promise.all([source.at(HANDED_OVER), destination.at(HANDED_OVER)]);
  t.ok((source.view?.move?.convergence?.postCopyBytes ?? 0n) > 0n);
  t.ok((destination.view?.move?.resumedAtMs ?? 0n) > 0n);
  await world.ensure(source);
  t.equal(source.view?.reason, "MOVE_COMMITTED", "the source never goes on");
  t.match(await world.ensure(destination), { state: RUNNING, restarts: 3n, move: { phase: HANDED_OVER } });
  await destination.counts();
  const counted = await world.counted(source, destination);
  t.same(counted, inOrder(counted), "every number once");
  t.equal(await world.remove(source), true);
});

await t.test("post-copy: called off before the commit, the guest goes on", async (t) => {
  await using world = await makeFollower();
  const { source, destination } = world;
  await source.kill();
  await source.start();
  t.match(source.view, { state: PAUSED, move: { phase: POST_COPY } }, "an agent's death decides nothing");
  t.match(await world.turnBack(), { state: RUNNING });
  await source.counts();
  const counted = await world.counted(source, destination);
  t.same(counted, inOrder(counted));
});

await t.test("post-copy: connections and agents come and go", async (t) => {
  await using world = await makeFollower();
  const { source, destination } = world;
  source.driver.set({ pagesPerSecond: 50 });
  t.match(await commit(world), { state: RUNNING });
  await until(() => world.moves.cut("memory") > 0);
  await until(() => (source.view?.move?.convergence?.recoveries ?? 0) > 0);
  for (const host of [source, destination]) {
    await host.kill();
    await host.start();
  }
  t.match(destination.view, { state: RUNNING, move: { phase: POST_COPY } });
  await Promise.all([source.at(HANDED_OVER), destination.at(HANDED_OVER)]);
  t.match(await world.ensure(destination), { state: RUNNING, restarts: 3n });
  await destination.counts();
  const counted = await world.counted(source, destination);
  t.same(counted, inOrder(counted), "every number once");
});

await t.test("post-copy: memory that is lost is a crash, and the disk is whole", async (t) => {
  for (const restartPolicy of [RestartPolicy.ALWAYS, RestartPolicy.NEVER]) {
    await using world = await makeFollower({ restartPolicy });
    const { source, destination } = world;
    source.driver.set({ pagesPerSecond: 20 });
    t.match(await commit(world, { restartPolicy }), { state: RUNNING });
    source.driver.set({ crash: [machineId] });
    await source.at(FAILED);
    t.equal(destination.phase, POST_COPY, "there it waits for the word");
    await world.ensure(destination, undefined, { restartPolicy });
    const again = restartPolicy === RestartPolicy.ALWAYS;
    await until(() => destination.view?.state === (again ? RUNNING : STOPPED));
    t.match(destination.view?.move, { phase: FAILED, reason: "MEMORY_LOST" });
    t.equal(await source.runs(), false);
    const lives = async () => new Set((await destination.ticks()).map((tick) => tick.split(" ")[0])).size;
    if (again) await until(async () => (await lives()) === 2);
  }
});

/** A move that is called off, or whose agents are killed, in each of its phases: the guest runs once, and goes on. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import type { FakeCall } from "#agent/drivers/fake/knobs.ts";
import { MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import { MovePhase, MoveRole } from "#gen/skerry/agent/v1/migration_pb.js";
import { inOrder, PipedWorld } from "#test/support/piped-world.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, PAUSED } = MachineState;
const { DISK_COPY, PRE_COPY, CONVERGED, SWITCHOVER, HANDED_OVER, FAILED } = MovePhase;
const { SOURCE, DESTINATION } = MoveRole;

const phases: [MovePhase, FakeCall | undefined][] = [
  [DISK_COPY, "disk-copy"],
  [PRE_COPY, "pre-copy"],
  [CONVERGED, undefined],
  [SWITCHOVER, "switchover"],
  [HANDED_OVER, undefined],
];

/** Brings a move to a phase and holds it there. */
async function hold(world: PipedWorld, phase: MovePhase, call: FakeCall | undefined): Promise<void> {
  world.source.driver.set({ hold: call ? [call] : [] });
  await world.begin();
  if (phase === SWITCHOVER) {
    await world.source.at(CONVERGED);
    await world.ensure(world.source, world.move(SOURCE, true), {}, 0);
  }
  if (phase === HANDED_OVER) await world.handOver();
  await world.source.at(phase);
}

for (const [phase, call] of phases) {
  const name = MovePhase[phase];
  await t.test(`called off in phase ${name}`, async (t) => {
    await using world = await PipedWorld.start();
    const { source, destination } = world;
    await hold(world, phase, call);
    const on = await world.turnBack();
    t.match(on, { state: RUNNING, move: { phase: FAILED, reason: "MOVE_CALLED_OFF" } });
    await source.counts();
    const counted = await world.counted(source);
    t.same(counted, inOrder(counted), "it goes on as if nothing had been");
    t.equal(destination.view, undefined);
    t.same(await readdir(join(destination.directory, "machines")), [], "no debris");
    source.driver.set({ hold: [] });
    world.migrationId = "mig-2";
    await world.ensure(destination, world.move(DESTINATION));
    await world.ensure(source, world.move(SOURCE));
    t.match((await world.handOver()).move, { phase: HANDED_OVER }, "another move comes through");
  });

  await t.test(`the source's agent is killed in phase ${name}`, async (t) => {
    await using world = await PipedWorld.start();
    const { source, destination } = world;
    await hold(world, phase, call);
    await source.kill();
    const before = await source.ticks();
    await source.start();
    if (phase === HANDED_OVER) {
      t.match(source.view, { state: PAUSED, move: { phase: HANDED_OVER } }, "it stays stopped");
      t.same(await source.ticks(), before);
      t.equal((await world.ensure(destination)).state, RUNNING, "and has arrived");
      return;
    }
    // The disk's channel comes back; what had begun to arrive of its memory is lost.
    await until(() => source.phase !== MovePhase.PREPARING);
    t.equal(await source.runs(), true);
    t.equal(await destination.runs(), false);
    if (phase > PRE_COPY) await destination.at(FAILED);
    else if (phase === DISK_COPY) await source.at(CONVERGED);
    t.match(await world.turnBack(), { state: RUNNING });
    await source.counts();
    const counted = await world.counted(source);
    t.same(counted, inOrder(counted));
  });

  await t.test(`the destination's agent is killed in phase ${name}`, async (t) => {
    await using world = await PipedWorld.start();
    const { source, destination } = world;
    await hold(world, phase, call);
    await destination.kill();
    await destination.start();
    t.equal(await destination.runs(), false, "it starts nothing");
    source.driver.set({ hold: [] });
    if (phase === HANDED_OVER) {
      await destination.at(HANDED_OVER);
      t.equal((await world.ensure(destination)).state, RUNNING, "it had arrived, and runs when told to");
      return;
    }
    if (phase <= PRE_COPY) {
      t.match((await world.handOver()).move, { phase: HANDED_OVER }, "the disk's channel is taken up again");
      return;
    }
    await source.at(FAILED);
    t.equal(source.view?.state, RUNNING, "the source goes on");
    await destination.at(FAILED);
    t.match(destination.view?.move, { phase: FAILED, reason: "MOVE_LOST" });
    await world.turnBack();
    await source.counts();
  });
}

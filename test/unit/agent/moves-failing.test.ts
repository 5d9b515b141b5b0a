/** What goes wrong in a move, at the source, at the destination and in between, and what becomes of the guest. */
import t from "tap";
import { MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import { MovePhase, MoveRole } from "#gen/skerry/agent/v1/migration_pb.js";
import { machineId } from "#test/support/piped-host.ts";
import { PipedWorld } from "#test/support/piped-world.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, STOPPED } = MachineState;
const { READY, PRE_COPY, CONVERGED, SWITCHOVER, HANDED_OVER, FAILED } = MovePhase;
const { SOURCE, DESTINATION } = MoveRole;

await t.test("a move that fails at the source leaves the guest running", async (t) => {
  for (const call of ["disk-copy", "pre-copy", "switchover"] as const) {
    await using world = await PipedWorld.start();
    const { source, destination } = world;
    const failure = { call, when: "before", times: 1, code: "conflict", reason: "TOLD_TO" } as const;
    source.driver.set({ failures: [failure] });
    await world.begin();
    if (call === "switchover") await world.handOver();
    await source.at(FAILED);
    t.match(source.view, { move: { reason: "TOLD_TO", migrationId: "mig-1" } }, call);
    t.equal(source.view?.state, RUNNING);
    t.match(
      (await world.ensure(source, world.move(SOURCE, true))).move,
      { phase: FAILED },
      "it is not tried again",
    );
    await source.counts();
    t.equal(await destination.runs(), false);
    t.match((await world.ensure(source)).move, { phase: FAILED, reason: "TOLD_TO" }, "the reason stays");
  }
});

await t.test("what fails at the destination", async (t) => {
  await using world = await PipedWorld.start();
  const { source, destination } = world;
  const failure = { call: "receive", when: "before" } as const;
  const passing = { ...failure, times: 2, code: "unavailable", reason: "BUSY" } as const;
  destination.driver.set({ failures: [passing] });
  t.match(
    (await world.ensure(destination, world.move(DESTINATION))).move,
    { phase: READY },
    "what passes is tried again",
  );
  await world.remove(destination);
  destination.driver.set({ failures: [{ ...failure, times: 9, code: "unavailable", reason: "BUSY" }] });
  await world.ensure(destination, world.move(DESTINATION));
  await until(() => destination.phase === FAILED);
  t.match(destination.view?.move, { reason: "BUSY" }, "but not for ever");
  await world.remove(destination);
  destination.driver.set({ failures: [] });

  await world.begin();
  await source.at(CONVERGED);
  t.match(
    await world.ensure(destination, undefined, {}, 1000),
    { reason: "MOVE_INCOMPLETE" },
    "half a machine is not run",
  );
  await world.ensure(destination, world.move(DESTINATION));
  await destination.driver.end(machineId, false);
  await destination.at(FAILED);
  t.match(destination.view?.move, { reason: "MOVE_LOST" });
  t.equal(destination.view?.state, STOPPED, "nothing is restarted");
  await source.at(FAILED);
  t.equal(source.view?.state, RUNNING);
  t.match(await world.ensure(source), { state: RUNNING });
  t.match(
    (await world.ensure(destination, world.move(DESTINATION))).move,
    { phase: FAILED },
    "the failure is final",
  );

  await using other = await PipedWorld.start();
  await other.begin();
  await other.handOver();
  await other.destination.at(HANDED_OVER);
  await other.destination.driver.end(machineId, false);
  await other.destination.at(FAILED);
  t.match(
    other.destination.view,
    { state: STOPPED, move: { reason: "MOVE_LOST" } },
    "an arrived machine that died",
  );
  t.match(await other.turnBack(), { state: RUNNING }, "is not lost: the source has it");
});

await t.test("what has arrived whole waits until its host has room to run it", async (t) => {
  for (const when of ["before", "after"] as const) {
    await using world = await PipedWorld.start();
    const { destination } = world;
    await world.begin();
    await world.handOver();
    await destination.at(HANDED_OVER);
    const full = { call: "ensure", when, code: "exhausted", reason: "HOST_DISK_FULL", times: 10 } as const;
    destination.driver.set({ failures: [full] });
    t.match(await world.ensure(destination), { state: RUNNING, crashes: 0n }, when);
    t.ok((destination.view?.move?.resumedAtMs ?? 0n) > 0n);
    await destination.counts();
  }
});

await t.test("a disk's connection that is cut comes back; memory's does not", async (t) => {
  await using world = await PipedWorld.start({ pagesPerSecond: 400, tickMs: 10 });
  const { source } = world;
  source.driver.set({ hold: ["pre-copy"] });
  await world.begin();
  await until(() => world.moves.cut("disk:root") > 0);
  await source.at(PRE_COPY);
  source.driver.set({ hold: [], pagesPerSecond: 0 });
  await source.at(CONVERGED);
  await until(() => world.moves.cut("memory") > 0);
  await source.at(FAILED);
  t.match(source.view, { state: RUNNING, move: { reason: "MOVE_CHANNEL_LOST" } });
});

await t.test("a source that crashes", async (t) => {
  await using world = await PipedWorld.start();
  const { source } = world;
  await world.begin();
  await source.at(CONVERGED);
  await source.driver.end(machineId, false);
  await source.at(FAILED);
  await until(() => source.view?.state === RUNNING);
  t.equal(source.view?.crashes, 1n, "is restarted by its policy while it may");

  await using late = await PipedWorld.start();
  late.source.driver.set({ hold: ["switchover"] });
  await late.begin();
  await late.source.at(CONVERGED);
  await late.ensure(late.source, late.move(SOURCE, true), {}, 0);
  await late.source.at(SWITCHOVER);
  await late.source.driver.end(machineId, false);
  await late.source.at(FAILED);
  await late.source.kill();
  await late.source.start();
  t.equal(late.source.view?.state, STOPPED, "but not once it may have handed over");
  t.match(await late.turnBack(), { state: RUNNING }, "until the control plane says so");
});

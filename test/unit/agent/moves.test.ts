/** A machine's part in a move, told as the control plane would: from command to command, and back to where it was. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import {
  decodeIntent,
  decodeProgress,
  encodeIntent,
  encodeProgress,
  newProgress,
} from "#agent/machines/entry.ts";
import { checkSpec } from "#agent/rpc/machine-checks.ts";
import { MachineState, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import {
  type Move,
  MovePhase,
  MoveRole,
  MoveStatusSchema,
  MoveType,
  OnUnreachable,
} from "#gen/skerry/agent/v1/migration_pb.js";
import { machineId, type PipedHost } from "#test/support/piped-host.ts";
import { inOrder, PipedWorld } from "#test/support/piped-world.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, PAUSED, STOPPED } = MachineState;
const { PREPARING, READY, DISK_COPY, CONVERGED, HANDED_OVER, FAILED } = MovePhase;
const { SOURCE, DESTINATION } = MoveRole;

await t.test("from command to command", async (t) => {
  await using world = await PipedWorld.start();
  const { source, destination } = world;
  await world.ensure(source);
  await source.counts();
  t.equal(destination.manager.hasMoving, false);
  const ready = await world.ensure(destination, world.move(DESTINATION));
  t.match(ready, { state: PAUSED, move: { phase: READY, role: DESTINATION, migrationId: "mig-1" } });
  t.equal(destination.manager.hasMoving, true, "the next command is waited for");
  t.equal(ready.generationReached, ready.fence?.generation, "being ready is what was asked for");
  const begun = await world.ensure(source, world.move(SOURCE));
  t.ok((begun.move?.phase ?? 0) >= DISK_COPY, "answered as soon as it has begun");
  t.equal(begun.state, RUNNING);
  await source.at(CONVERGED);
  await source.counts();
  const handed = await world.ensure(source, world.move(SOURCE, true));
  t.match(handed, { state: PAUSED, move: { phase: HANDED_OVER, reason: "", bytesRemaining: 0n } });
  const { stoppedAtMs = 0n, stoppedMs = NaN, phaseMs = {}, bytesSent = 0n, rounds = 0 } = handed.move ?? {};
  t.ok(stoppedMs >= 0 && stoppedMs < 1000 && stoppedAtMs > 0n, `it stopped for ${String(stoppedMs)} ms`);
  t.same(Object.keys(phaseMs), ["preparing", "disk-copy", "pre-copy", "converged", "switchover"]);
  t.ok(bytesSent > 64n * 4096n && rounds > 1, "with what it cost");
  const stopped = await source.ticks();
  t.equal((await destination.ticks()).length, 0, "nothing runs there before the word");
  const arrived = await world.ensure(destination);
  t.match(arrived, { state: RUNNING, restarts: 3n, move: { phase: HANDED_OVER } }, "it was not restarted");
  t.equal(destination.manager.hasMoving, false, "and none is missing any more");
  t.ok((arrived.move?.resumedAtMs ?? 0n) >= stoppedAtMs);
  await destination.counts();
  t.same(await source.ticks(), stopped, "the source stands still");
  const counted = await world.counted(source, destination);
  t.same(counted, inOrder(counted), "every number once");
  t.equal(await world.remove(source), true);
  t.equal(source.view, undefined);
  await destination.kill();
  await destination.start();
  t.match(
    destination.view?.move,
    { phase: HANDED_OVER, resumedAtMs: arrived.move?.resumedAtMs },
    "it is remembered",
  );

  world.migrationId = "mig-2";
  await world.ensure(source, world.move(DESTINATION));
  await world.ensure(destination, world.move(SOURCE));
  await destination.at(CONVERGED);
  t.match((await world.ensure(destination, world.move(SOURCE, true))).move, {
    migrationId: "mig-2",
    role: SOURCE,
  });
  t.equal((await world.ensure(source)).state, RUNNING, "and it can go back");
});

await t.test(
  "nothing is sent while nobody takes it, and the ways are closed before the guest is to go on",
  async (t) => {
    await using world = await PipedWorld.start();
    const { source, destination } = world;
    await world.ensure(source);
    await world.ensure(source, world.move(SOURCE), {}, 100);
    t.equal(source.phase, MovePhase.PREPARING);
    t.equal(world.moves.cut("disk:root"), 0, "the hypervisor has not connected");
    await world.ensure(destination, world.move(DESTINATION));
    await source.at(CONVERGED);
    source.driver.set({ hold: ["ensure"] });
    const on = world.ensure(source);
    await until(() => source.driver.waiting === 1);
    t.equal(world.moves.cut("disk:root") + world.moves.cut("memory"), 0, "its connections are closed");
    source.driver.set({ hold: [] });
    t.match(await on, { state: RUNNING, move: { phase: FAILED, reason: "MOVE_CALLED_OFF" } });
  },
);

await t.test("what the driver cannot do is not done in another way", async (t) => {
  await using world = await PipedWorld.start();
  world.change = { type: MoveType.POSTCOPY };
  const { source, destination } = world;
  await world.ensure(source);
  const refused = { phase: FAILED, reason: "POSTCOPY_UNSUPPORTED" };
  t.match((await world.ensure(destination, world.move(DESTINATION))).move, refused);
  t.match(await world.ensure(source, world.move(SOURCE)), { state: RUNNING, move: refused });
});

await t.test("a source whose peer is not ready yet", async (t) => {
  await using world = await PipedWorld.start();
  const { source } = world;
  await world.ensure(source);
  await world.ensure(source, world.move(SOURCE), {}, 0);
  await source.at(PREPARING);
  await source.counts();
  t.match(source.view, { state: RUNNING, reason: "" }, "waits, and its guest runs");
  await world.ensure(world.destination, world.move(DESTINATION));
  await world.handOver();
  t.equal(source.phase, HANDED_OVER, "goes on when it has come");

  await using other = await PipedWorld.start();
  await other.ensure(other.source);
  await other.ensure(other.source, other.move(SOURCE), {}, 0);
  await other.source.at(PREPARING);
  await other.source.driver.end(machineId, false);
  await other.source.at(FAILED);
  t.equal(other.source.view?.move?.reason, "MACHINE_NOT_RUNNING");
  await until(() => other.source.view?.state === RUNNING);
  t.equal(other.source.view?.crashes, 1n, "a guest that ends meanwhile is restarted by its policy");
});

await t.test("what a source began ahead waits only for a while", async (t) => {
  await using world = await PipedWorld.start();
  const { source } = world;
  await source.kill();
  source.timing = { pulls: { lookMs: 5, soonMs: 100, mostMs: 800 } };
  await source.start();
  const asked: number[] = [];
  source.driver.liveMigration.getReady = async () => void asked.push(performance.now());
  await world.ensure(source);
  await world.ensure(source, world.move(SOURCE), {}, 0);
  await source.at(FAILED);
  t.equal(source.view?.move?.reason, "MOVE_NOT_PULLED");
  t.equal(source.view?.state, RUNNING, "its guest runs on");
  const [first = NaN, second = NaN] = asked;
  t.equal(asked.length, 2, "the driver was told once more, and not at every look");
  t.ok(second - first >= 100, "which for a driver means that it took too long");

  await world.ensure(source);
  world.migrationId = "mig-2";
  asked.length = 0;
  await world.ensure(world.destination, world.move(DESTINATION));
  await world.ensure(source, world.move(SOURCE));
  await world.handOver();
  t.equal(asked.length, 1, "not where the other host comes in time");
});

await t.test("a guest that writes faster than the link carries", async (t) => {
  const ends = [
    [OnUnreachable.ABORT, { state: RUNNING, move: { phase: FAILED, reason: "MAX_DOWNTIME_UNREACHABLE" } }],
    [OnUnreachable.THROTTLE, { state: PAUSED, move: { phase: HANDED_OVER } }],
    [OnUnreachable.FORCE, { state: PAUSED, move: { phase: HANDED_OVER } }],
  ] as const;
  for (const [onUnreachable, end] of ends) {
    await using world = await PipedWorld.start({ tickMs: 2, dirtyPages: 60, pagesPerSecond: 800 });
    world.change = { onUnreachable, maxDowntimeMs: 20 };
    await world.begin();
    t.match(await world.handOver(), end, OnUnreachable[onUnreachable]);
  }
});

await t.test("a machine that is off moves with its disk", async (t) => {
  await using world = await PipedWorld.start({ tickMs: 0 });
  world.change = { type: MoveType.COLD };
  await world.begin({ power: Power.OFF });
  await world.source.at(CONVERGED);
  t.match(await world.ensure(world.source, world.move(SOURCE, true), { power: Power.OFF }), {
    state: STOPPED,
    move: { phase: HANDED_OVER },
  });
  t.match(await world.ensure(world.destination, undefined, { power: Power.OFF }), { state: STOPPED });
  t.match(await world.ensure(world.destination), { state: RUNNING }, "and can be turned on there");
  t.equal(await world.source.runs(), false);
});

await t.test("disks that are kept for a while, and moves back to them", async (t) => {
  await using world = await PipedWorld.start({ tickMs: 3, diskPages: 4000 });
  const { source: first, destination: second } = world;
  const folders = (host: PipedHost) => readdir(join(host.directory, "machines"));
  const stale = async (host: PipedHost) =>
    (await folders(host)).length > 0 &&
    (await readdir(join(host.directory, "machines", machineId))).includes("stale.bin");
  /** Moves it, with what the destination says that it has taken and how much of the disk was not sent. */
  const move = async (migrationId: string, [source, destination]: [PipedHost, PipedHost], baseline = "") => {
    Object.assign(world, { migrationId, source, destination, change: { baseline } });
    await world.begin();
    const taken = destination.view?.move?.baseline;
    const { move: sent } = await world.handOver();
    const arrived = await world.ensure(destination);
    t.equal(arrived.diskBaseline, migrationId, "it knows what is written from here on");
    t.equal(await world.remove(source, 60), true);
    return { taken, kept: Number(sent?.bytes?.diskKept) / 4096 };
  };

  t.same(await move("mig-1", [first, second]), { taken: "", kept: 0 });
  t.equal(first.view, undefined, "no machine any more");
  t.ok(await stale(first));
  await first.kill();
  await first.start();
  t.ok(await stale(first), "a restart of the agent keeps them");
  t.equal(await first.runs(), false);

  const back = await move("mig-2", [second, first], "mig-1");
  t.equal(back.taken, "mig-1");
  t.ok(back.kept > 2000 && back.kept < 4000, `${String(back.kept)} of 4000 pages were kept`);

  await first.driver.end(machineId, false);
  await until(() => first.view?.state === RUNNING && first.view.crashes === 1n);
  t.equal(first.view?.diskBaseline, "", "after a crash nothing is known");
  t.same(await move("mig-3", [first, second], "mig-2"), { taken: "mig-2", kept: 0 }, "so all of it is sent");

  t.same(await move("mig-4", [second, first], "mig-1"), { taken: "", kept: 0 }, "kept since another move");

  t.ok(await stale(second));
  await second.kill();
  second.nowMs = () => Date.now() + 61_000;
  await second.start();
  await until(async () => (await folders(second)).length === 0);
  await first.counts();
});

await t.test("what a command must look like, and what the ledger keeps of it", async (t) => {
  const world = new PipedWorld();
  const wrong: Partial<Move>[] = [
    { migrationId: "../etc" },
    { role: MoveRole.UNSPECIFIED },
    { type: MoveType.UNSPECIFIED },
    { peerHostId: "a/b" },
    { ticket: Buffer.alloc(15) },
    { peerAddress: "nowhere" },
  ];
  for (const change of wrong) {
    const move = Object.assign(world.move(SOURCE), change);
    t.match(
      await reasonOf(() => checkSpec(world.spec(move))),
      /COMMAND_INVALID|ADDRESS_INVALID/,
      JSON.stringify(change, bigints),
    );
  }
  t.equal(await reasonOf(() => checkSpec(world.spec(world.move(SOURCE)))), undefined);
  const fence = { epoch: 3n, generation: 4n };
  const intent = { fence, spec: world.spec(world.move(SOURCE, true)) };
  t.same(decodeIntent(machineId, encodeIntent(machineId, intent)), intent);
  const removal = { fence, spec: undefined, keepDisksSeconds: 9 };
  t.same(decodeIntent(machineId, encodeIntent(machineId, removal)), removal);
  const move = create(MoveStatusSchema, { migrationId: "mig-1", phaseMs: { ready: 7n }, cpuSeconds: 0.5 });
  const progress = { ...newProgress(5n), keptUntilMs: 8, move };
  t.same(decodeProgress(encodeProgress(progress)), progress);
});

function bigints(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

import { create } from "@bufbuild/protobuf";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { moveConformance } from "#agent/drivers/conformance-move.ts";
import type { MachinePlan } from "#agent/drivers/driver.ts";
import { MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { MoveRole, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import { deadline } from "#kernel/retry.ts";
import { GuestShell } from "#test/support/guest-shell.ts";
import { makeWorld, type MoveWorld, type Side } from "#test/support/move-world.ts";
import { makeQemuBench } from "#test/support/qemu-bench.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

// Two drivers on this host, joined by plain pipes between their sockets.

const MiB = 1024n ** 2n;
const run = promisify(execFile);
const limitMs = 120_000;

/** Counts on its console and in a file on its disk. */
const counting =
  "i=0; while true; do echo count-$i; echo $i >> /data/journal; i=$((i+1)); usleep 20000; done\n";

await t.test("a guest moves and notices nothing", async (t) => {
  await using world = await makeWorld("vm-moves", { memoryBytes: 128n * MiB });
  using signal = deadline(limitMs, "the move");
  const { source, destination } = world;
  await source.driver.ensure(source.plan, signal);
  const shell = await GuestShell.open(source.driver, source.plan, signal);
  await shell.run("dd if=/dev/urandom of=/data/before bs=1M count=8");
  const sum = await shell.run("md5sum /data/before");
  shell.type(counting);
  await until(async () => counts(await source.console()).length > 20);

  const { last, phases } = await world.move({ maxDowntimeMs: 500 }, signal);
  t.comment(`${phases.join(" ")}: ${JSON.stringify(last)}`);
  t.equal(phases.at(-1), "handed-over");
  t.match([await world.stateOf(source), await world.stateOf(destination)], ["paused", "paused"]);
  const seeds = [source, destination].map(({ directory }) => readFile(join(directory, "seed.iso")));
  const [seed, seedThere] = await Promise.all(seeds);
  t.ok(seed && seedThere?.equals(seed), "the seed that it may have mounted is the same");
  const before = await source.console();
  await destination.driver.ensure(destination.plan, signal);
  t.equal(await world.stateOf(destination), "running", "it runs where it has arrived");
  await source.driver.remove(world.id, source.directory, signal);
  await until(async () => counts(await destination.console()).length > 20);

  const there = await GuestShell.resume(destination.driver, destination.plan, signal);
  t.equal(await there.run("md5sum /data/before"), sum, "what it had written is there");
  const journal = (await there.run("cat /data/journal")).split(/\s+/).map(Number);
  t.same(journal, [...journal.keys()], "its journal has no gap");
  const all = counts(before + (await destination.console()));
  t.same(all, [...all.keys()], "its console neither");
  await there.run("sync");
  await destination.driver.ensure(powerOff(destination.plan), signal);
  const disk = join(destination.directory, "root.qcow2");
  t.match((await run("qemu-img", ["check", disk])).stdout, /No errors were found/);
});

await t.test("it moves machines as every driver does", async (t) => {
  await moveConformance(t, { limitMs, make: () => makeQemuBench("machines") });
});

/** Each phase, and what keeps a move from going past it. */
const stations: readonly { phase: string; held: string; switchOver?: false }[] = [
  { phase: "disk-copy", held: "disk:root" },
  { phase: "pre-copy", held: "memory" },
  { phase: "converged", held: "", switchOver: false },
  { phase: "switchover", held: "memory" },
  { phase: "handed-over", held: "" },
];

await t.test("called off wherever it stands, the guest goes on", async (t) => {
  await using world = await makeWorld("vm-stays", {});
  using signal = deadline(2 * limitMs, "calling off");
  const { source, destination } = world;
  await source.driver.ensure(source.plan, signal);
  const shell = await GuestShell.open(source.driver, source.plan, signal);
  shell.type(counting);
  for (const { phase, held, ...orders } of stations) {
    await t.test(`${phase}: called off`, async (t) => {
      const { phases } = await moveUntil(world, phase, held, orders, signal);
      t.equal(phases.at(-1), phase);
      // As an agent does: a copy whose connection is open but silent would wait for it.
      if (phase === "disk-copy") world.cut();
      const begun = performance.now();
      t.equal((await source.driver.ensure(source.plan, signal)).state, "running");
      t.comment(`took ${String(Math.round(performance.now() - begun))} ms`);
      await goesOn(world, source);
      world.held.clear();
      await destination.driver.remove(world.id, destination.directory, signal);
    });
    if (phase === "handed-over") continue;
    await t.test(`${phase}: the destination's machine is killed`, async (t) => {
      const kill = async () => process.kill(await destination.pid(), "SIGKILL");
      const reason = await reasonOf(moveUntil(world, phase, held, orders, signal, kill));
      if (phase === "disk-copy") t.equal(reason, undefined, "a connection that is cut may come back");
      else t.match(reason, /^MOVE_/);
      const again = world.receive({ migrationId: `kill-${phase}` }, signal);
      t.equal(await reasonOf(again), "MOVE_LOST", "what it had is gone");
      if (phase === "disk-copy") await source.driver.ensure(source.plan, signal);
      t.equal(await world.stateOf(source), "running");
      await goesOn(world, source);
      world.held.clear();
      await destination.driver.remove(world.id, destination.directory, signal);
    });
  }
  await t.test("and after all that it can move", async (t) => {
    const { phases } = await world.move({ migrationId: "last" }, signal);
    t.equal(phases.at(-1), "handed-over");
    const before = await source.console();
    await destination.driver.ensure(destination.plan, signal);
    await goesOn(world, destination);
    const all = counts(before + (await destination.console()));
    t.same(all, [...all.keys()], "nothing was lost or done twice");
  });
});

await t.test(
  "what it was given while it ran moves too, whatever happens to the agents and their connections",
  async (t) => {
    await using world = await makeWorld("vm-grown", {});
    using signal = deadline(2 * limitMs, "moving what grew");
    const { source, destination } = world;
    await source.driver.ensure(source.plan, signal);
    const shell = await GuestShell.open(source.driver, source.plan, signal);
    const grown = { vcpus: 2, diskBytes: 96n * MiB };
    const forwards = create(MachineSpecSchema, { forwards: [{ guestPort: 80 }] }).forwards;
    for (const side of [source, destination]) Object.assign(side.plan.spec, { ...grown, forwards });
    await source.driver.ensure(source.plan, signal);
    await until(async () => (await shell.run("nproc")) === "2");
    await shell.run("dd if=/dev/urandom of=/data/before bs=1M count=24; sync");
    const sum = await shell.run("md5sum /data/before");
    shell.type(counting);

    await t.test("a cut in the disk's copy, and new agents at both ends", async (t) => {
      const partly = await world.move({}, signal, ({ bytesRemaining }) => {
        world.held.add("disk:root");
        return bytesRemaining === 0;
      });
      t.ok((partly.last?.bytesRemaining ?? 0) > 0, "there is something left to copy");
      world.cut();
      await source.succeed();
      await destination.succeed();
      await source.driver.recover([world.withMove(source, MoveRole.SOURCE, {})], signal);
      await destination.driver.recover([world.withMove(destination, MoveRole.DESTINATION, {})], signal);
      world.held.clear();
      t.equal(await world.stateOf(destination), "paused", "an agent's start runs nothing");
    });
    await t.test("it ends as if nothing had been", async (t) => {
      const { phases } = await world.move({}, signal);
      t.equal(phases.at(-1), "handed-over");
      await source.succeed();
      const moving = world.withMove(source, MoveRole.SOURCE, {});
      t.match(await source.driver.recover([moving], signal), [{ state: "paused" }], "handed over stays so");
      t.equal((await source.driver.ensure(moving, signal)).state, "paused");
      t.equal(await destination.driver.liveMigration!.hasArrived(world.id), true);
    });
    const before = await source.console();
    const arrived = await destination.driver.ensure(destination.plan, signal);
    t.match(arrived, {
      state: "running",
      vcpus: 2,
      diskBytes: 96n * MiB,
      pendingRestart: [],
    });
    await source.driver.remove(world.id, source.directory, signal);
    await goesOn(world, destination);
    const all = counts(before + (await destination.console()));
    t.same(all, [...all.keys()], "nothing was lost or done twice");
    const there = await GuestShell.resume(destination.driver, destination.plan, signal);
    t.equal(await there.run("md5sum /data/before; nproc"), `${sum}\n2`);
    const [forward] = arrived.forwards;
    const answer = await fetch(`http://127.0.0.1:${String(forward?.hostPort)}/`, { signal });
    t.match(await answer.text(), /vm-grown/, "the host's port leads into the guest");

    const memoryBytes = 256n * MiB;
    Object.assign(destination.plan.spec, { memoryBytes });
    await destination.driver.ensure(destination.plan, signal);
    // The guest takes it when it gets to it, on a busy machine after `ensure` has given up waiting.
    await until(async () => (await destination.driver.inspect(world.id))?.memoryBytes === memoryBytes);
    t.equal((await destination.driver.inspect(world.id))?.moveBlocker, "added_memory", "and says so before");
    const leaving = world.withMove(destination, MoveRole.SOURCE, { migrationId: "grown-2" });
    const sending = destination.driver.liveMigration!.send(leaving, world.socketOf, signal);
    const refused = await reasonOf(async () => void (await sending[Symbol.asyncIterator]().next()));
    t.equal(refused, "MOVE_BLOCKED", "emulated memory that was plugged in would not arrive whole");
    t.equal(await world.stateOf(destination), "running");
  },
);

await t.test("a machine that is off moves with its disk", async (t) => {
  await using world = await makeWorld("vm-off", {});
  using signal = deadline(2 * limitMs, "a cold move");
  const { source, destination } = world;
  await source.driver.ensure(source.plan, signal);
  const shell = await GuestShell.open(source.driver, source.plan, signal);
  const sum = await shell.run("dd if=/dev/urandom of=/data/before bs=1M count=8; sync; md5sum /data/before");
  for (const side of [source, destination])
    Object.assign(side.plan.spec, { power: Power.OFF, stopTimeoutSeconds: 0 });
  await source.driver.ensure(source.plan, signal);
  const cold = { type: MoveType.COLD };

  await world.move({ ...cold, migrationId: "off-1" }, signal, ({ phase }) => phase !== "disk-copy");
  t.equal((await source.driver.ensure(source.plan, signal)).state, "stopped", "called off, it is off");
  await destination.driver.remove(world.id, destination.directory, signal);

  const { phases } = await world.move({ ...cold, migrationId: "off-2" }, signal);
  t.equal(phases.at(-1), "handed-over");
  t.equal((await destination.driver.ensure(destination.plan, signal)).state, "stopped");
  await source.driver.remove(world.id, source.directory, signal);
  destination.plan.spec.power = Power.ON;
  await destination.driver.ensure(destination.plan, signal);
  const there = await GuestShell.open(destination.driver, destination.plan, signal);
  t.match(sum, await there.run("md5sum /data/before"), "its files are where it is");
});

/** Moves the guest until a phase is told, then holds that phase still and stops sending. */
async function moveUntil(
  world: MoveWorld,
  phase: string,
  held: string,
  orders: { switchOver?: false },
  signal: AbortSignal,
  then?: () => Promise<unknown>,
): Promise<{ phases: string[] }> {
  // The memory's stream can be held from its beginning on, a disk's when it has been connected.
  if (phase === "pre-copy") world.held.add(held);
  const change = { migrationId: `${then ? "kill" : "stop"}-${phase}`, ...orders };
  let done = false;
  return await world.move(change, signal, async (progress) => {
    if (progress.phase !== phase || done) return true;
    world.held.add(held);
    if (!then) return false;
    done = true;
    await then();
    return phase !== "disk-copy";
  });
}

/** The guest counts on: within a minute, so that one that is slow on a busy machine is not taken for one that hangs. */
async function goesOn(world: MoveWorld, side: Side): Promise<void> {
  const last = counts(await side.console()).length;
  try {
    await until(async () => counts(await side.console()).length > last + 5);
  } catch (cause) {
    const shown = (await side.console()).slice(-400);
    throw new Error(`it is ${await world.stateOf(side)} and does not count on: ${shown}`, { cause });
  }
}

function counts(text: string): number[] {
  return Array.from(text.matchAll(/count-(\d+)\r?\n/g), ([, count]) => Number(count));
}

function powerOff(plan: MachinePlan): MachinePlan {
  return { ...plan, spec: { ...plan.spec, power: Power.OFF, stopTimeoutSeconds: 0 } };
}

import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { MoveRole, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import { deadline } from "#kernel/retry.ts";
import { GuestShell } from "#test/support/guest-shell.ts";
import { makeWorld, type MoveWorld } from "#test/support/move-world.ts";
import { until } from "#test/support/until.ts";

// A guest that moves away and back between two drivers on this host, and what each of them keeps.

const MiB = 2 ** 20;
const run = promisify(execFile);

await t.test("a guest moves away and back, and back again", async (t) => {
  await using world = await makeWorld("vm-back", {});
  using signal = deadline(120_000, "moving back");
  await world.source.driver.ensure(world.source.plan, signal);
  const shell = await GuestShell.open(world.source.driver, world.source.plan, signal);
  await shell.run(
    "dd if=/dev/urandom of=/data/stays bs=1M count=8; dd if=/dev/urandom of=/data/goes bs=1M count=2; sync",
  );

  await t.test("the host that it left keeps its disk, and no machine", async (t) => {
    const { last } = await world.move({ migrationId: "mig-1" }, signal);
    t.equal(last?.diskKeptBytes, undefined, "all of it was sent");
    const { source } = await arrive(world, signal);
    t.same(await readdir(source.directory), ["kept-mig-1.qcow2"]);
    t.same(await source.driver.recover([source.plan], signal), [], "an agent's start finds nothing");
    t.equal((await world.destination.driver.inspect(world.id))?.baseline, "mig-1");
  });

  world.turn();
  await t.test("only what was written and discarded meanwhile goes back", async (t) => {
    const { source, destination } = world;
    const there = await GuestShell.resume(source.driver, source.plan, signal);
    await there.run("rm /data/goes; dd if=/dev/urandom of=/data/new bs=1M count=1; sync; fstrim -v /data");
    there.type(
      "while true; do dd if=/dev/urandom of=/data/busy bs=64k count=4 conv=notrunc,fsync; done 2>/dev/null\n",
    );
    const told = { migrationId: "mig-2", baseline: "mig-1" };
    await world.receive(told, signal);
    t.equal((await destination.driver.inspect(world.id))?.baseline, "mig-1", "the kept disk was taken");
    world.held.add("disk:root");
    await world.send(told, signal, () => false);
    world.cut();
    await source.succeed();
    await source.driver.recover([world.withMove(source, MoveRole.SOURCE, told)], signal);
    world.held.clear();
    const { last, phases } = await world.send(told, signal);
    t.equal(phases.at(-1), "handed-over", "whatever happens to the agent and its connection");
    const kept = last?.diskKeptBytes ?? 0;
    t.ok(kept > 4 * MiB, `what was there was kept: ${String(kept)} bytes`);
    t.match(await compareDisks(world), /Images are identical/);
    await arrive(world, signal);
    const back = await GuestShell.resume(destination.driver, destination.plan, signal);
    t.match(
      await back.run("md5sum /data/stays /data/new > /data/sums; sync; md5sum -c /data/sums"),
      /new: OK/,
    );
    t.match(await back.run("ls /data"), /^(?!.*goes)/);
  });

  world.turn();
  await t.test("after a crash nobody knows what was written, so all of it is sent", async (t) => {
    const { source } = world;
    t.equal((await source.driver.inspect(world.id))?.baseline, "mig-2");
    process.kill(await source.pid(), "SIGKILL");
    await until(async () => (await source.driver.inspect(world.id))?.state === "stopped");
    t.equal((await source.driver.inspect(world.id))?.baseline, undefined, "it tells so");
    await source.driver.ensure(source.plan, signal);
    const again = await GuestShell.open(source.driver, source.plan, signal);
    await again.run("rm /data/stays; dd if=/dev/urandom of=/data/new bs=1M count=2; sync; fstrim /data");
    const told = { migrationId: "mig-3", baseline: "mig-2" };
    const { last, phases } = await world.move(told, signal);
    t.equal(phases.at(-1), "handed-over");
    t.equal(last?.diskKeptBytes, undefined, "though the other host has kept its disk");
    t.match(await compareDisks(world), /Images are identical/);
    await arrive(world, signal);
  });

  world.turn();
  await t.test("a machine that is off moves back with little, too", async (t) => {
    const { source } = world;
    const there = await GuestShell.resume(source.driver, source.plan, signal);
    await there.run("dd if=/dev/urandom of=/data/last bs=1M count=1; sync");
    there.type("poweroff -f\n");
    await until(async () => (await source.driver.inspect(world.id))?.state === "stopped");
    t.equal((await source.driver.inspect(world.id))?.baseline, "mig-3");
    const told = { migrationId: "mig-4", baseline: "mig-3", type: MoveType.COLD };
    const { last, phases } = await world.move(told, signal);
    t.equal(phases.at(-1), "handed-over");
    const [kept, sent] = [last?.diskKeptBytes ?? 0, world.sent.get("disk:root") ?? Infinity];
    t.comment(`${String(sent)} bytes sent, ${String(kept)} kept`);
    t.ok(sent > MiB && sent < kept, "what was written since it came");
    t.match(await compareDisks(world), /Images are identical/);
  });
});

/** The guest goes on where it has arrived, and the other host keeps what it may. */
async function arrive(world: MoveWorld, signal: AbortSignal): Promise<MoveWorld> {
  const { source, destination } = world;
  await destination.driver.ensure(destination.plan, signal);
  await source.driver.remove(world.id, source.directory, signal, { keepDisks: true });
  return world;
}

/** What is different between the two disks, in qemu-img's words; while neither machine runs. */
async function compareDisks({ source, destination }: MoveWorld): Promise<string> {
  const disks = [source, destination].map(({ directory }) => join(directory, "root.qcow2"));
  return (await run("qemu-img", ["compare", "-U", ...disks])).stdout;
}

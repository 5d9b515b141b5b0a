import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import type { MachinePlan } from "#agent/drivers/driver.ts";
import { Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { deadline } from "#kernel/retry.ts";
import { GuestShell } from "#test/support/guest-shell.ts";
import { makeWorld } from "#test/support/move-world.ts";
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
  await until(async () => counts(await source.console()).length > 20, 20_000);

  const { last, phases } = await world.move({ maxDowntimeMs: 500 }, signal);
  t.comment(`${phases.join(" ")}: ${JSON.stringify(last)}`);
  t.equal(phases.at(-1), "handed-over");
  t.match([await world.stateOf(source), await world.stateOf(destination)], ["paused", "paused"]);
  const before = await source.console();
  await destination.driver.ensure(destination.plan, signal);
  t.equal(await world.stateOf(destination), "running", "it runs where it has arrived");
  await source.driver.remove(world.id, source.directory, signal);
  await until(async () => counts(await destination.console()).length > 20, 20_000);

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

function counts(text: string): number[] {
  return Array.from(text.matchAll(/count-(\d+)\r?\n/g), ([, count]) => Number(count));
}

function powerOff(plan: MachinePlan): MachinePlan {
  return { ...plan, spec: { ...plan.spec, power: Power.OFF, stopTimeoutSeconds: 0 } };
}

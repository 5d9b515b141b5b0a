import { create } from "@bufbuild/protobuf";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import type { MachinePlan, SendProgress } from "#agent/drivers/driver.ts";
import { createLibvirtDriver, type LibvirtDriver } from "#agent/drivers/libvirt/driver.ts";
import { MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import {
  type Move,
  MoveRole,
  MoveSchema,
  MoveType,
  OnUnreachable,
} from "#gen/skerry/agent/v1/migration_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { deadline } from "#kernel/retry.ts";
import { ChannelPipes } from "#test/support/channel-pipes.ts";
import { GuestShell } from "#test/support/guest-shell.ts";
import { type LibvirtHost, startLibvirtHost } from "#test/support/libvirt-host.ts";
import { loadMicro } from "#test/support/micro.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

// Two libvirts with host names and files of their own, joined by nothing but the channels of the move.

const MiB = 1024n ** 2n;
const limitMs = 240_000;
const id = "vm-moves";

const image = await loadMicro();
const a = await side("host-a");
const b = await side("host-b");

/** Counts on its console and in a file on its disk. */
const counting =
  "i=0; while true; do echo count-$i; echo $i >> /data/journal; i=$((i+1)); usleep 20000; done\n";

await t.test("both can tell how guests are started here, and that is the same", async (t) => {
  t.same(await a.driver.liveMigration.guestModel(), await b.driver.liveMigration.guestModel());
  t.same(await a.driver.liveMigration.listChannels(), ["libvirt", "memory", "disk:root"]);
});

await t.test("a guest moves and notices nothing", async (t) => {
  using signal = deadline(limitMs, "the move");
  await a.driver.ensure(a.plan, signal);
  const shell = await GuestShell.open(a.driver, a.plan, signal);
  await shell.run("dd if=/dev/urandom of=/data/before bs=1M count=8");
  const sum = await shell.run("md5sum /data/before");
  shell.type(counting);
  await until(async () => counts(await consoleOf(a)).length > 20);

  await using pipes = await ChannelPipes.lay(id, a.host.directory, b.driver.liveMigration);
  await t.test("until it may be handed over, it runs, however near the end is", async (t) => {
    await b.driver.liveMigration.receive(moving(b, MoveRole.DESTINATION), signal);
    t.equal((await b.driver.inspect(id))?.state, "paused", "it is awaited");
    t.equal(await b.driver.liveMigration.hasArrived(id), false);
    t.equal(await reasonOf(b.driver.ensure(b.plan, signal)), "MOVE_INCOMPLETE", "half a machine is not run");
    const phases = await send(a, pipes, { switchOver: false }, signal, ({ phase }) => phase !== "converged");
    t.match(phases, ["disk-copy", "converged"]);
    const before = counts(await consoleOf(a)).length;
    await until(async () => counts(await consoleOf(a)).length > before + 5);
    t.equal(await b.driver.liveMigration.hasArrived(id), false);
  });

  await t.test("called off, it goes on where it is", async (t) => {
    t.equal((await a.driver.ensure(a.plan, signal)).state, "running");
    const before = counts(await consoleOf(a)).length;
    await until(async () => counts(await consoleOf(a)).length > before + 5);
    await b.driver.remove(id, b.plan.directory, signal);
  });

  await t.test("a destination that dies on the way takes nothing with it", async (t) => {
    await b.driver.liveMigration.receive(moving(b, MoveRole.DESTINATION), signal);
    let alive = true;
    const broken = send(a, pipes, { switchOver: false }, signal, async ({ phase }) => {
      if (alive && phase === "converged") await b.host.crash(id);
      alive &&= phase !== "converged";
      return true;
    });
    t.equal(await reasonOf(broken), "MOVE_ABORTED");
    t.equal((await a.driver.inspect(id))?.state, "running");
  });

  await t.test("a daemon that is killed at the source leaves the guest running", async (t) => {
    await b.driver.remove(id, b.plan.directory, signal);
    await b.driver.liveMigration.receive(moving(b, MoveRole.DESTINATION), signal);
    const process = await a.host.virsh("domid", id);
    let alive = true;
    const broken = send(a, pipes, { switchOver: true }, signal, async ({ phase }) => {
      if (alive && phase === "pre-copy") await a.host.kill();
      alive &&= phase !== "pre-copy";
      return true;
    });
    t.equal(await reasonOf(broken), "MOVE_ABORTED");
    t.equal((await a.driver.inspect(id))?.state, "running");
    t.equal(await a.host.virsh("domid", id), process, "the same one");
    await b.driver.remove(id, b.plan.directory, signal);
  });

  await t.test("handed over, it stands still on both sides until it is said where it runs", async (t) => {
    let last: SendProgress | undefined;
    await b.driver.liveMigration.receive(moving(b, MoveRole.DESTINATION), signal);
    const phases = await send(a, pipes, { switchOver: true }, signal, (progress) => {
      last = progress;
      return true;
    });
    t.equal(phases.at(-1), "handed-over", phases.join(" "));
    t.comment(JSON.stringify(last));
    t.ok((last?.stoppedMs ?? 0) > 0, "it tells how long it took");
    t.equal((await a.driver.inspect(id))?.state, "stopped");
    t.equal((await b.driver.inspect(id))?.state, "paused");
    t.equal(await b.driver.liveMigration.hasArrived(id), true);
    const still = moving(b, MoveRole.DESTINATION);
    t.equal((await b.driver.ensure(still, signal)).state, "paused", "an intent with the move runs nothing");
    t.same(
      await send(a, pipes, { switchOver: true }, signal),
      ["handed-over"],
      "asked again, it says so again",
    );
    await using heir = await driverOf(a.host);
    const again = heir.liveMigration.send(moving(a, MoveRole.SOURCE), pipes.socketOf, signal);
    t.match((await again.next()).value, { phase: "handed-over" }, "and so does an agent that was killed");
    const other = heir.liveMigration.send(
      moving(a, MoveRole.SOURCE, { migrationId: "other" }),
      pipes.socketOf,
      signal,
    );
    t.equal(await reasonOf(other.next()), "MACHINE_NOT_RUNNING", "but of this move only");
    const begun = performance.now();
    t.equal((await b.driver.ensure(b.plan, signal)).state, "running", "without the move it runs");
    t.comment(`runs after ${String(Math.round(performance.now() - begun))} ms`);
    await a.driver.remove(id, a.plan.directory, signal);
    t.equal(await a.driver.inspect(id), undefined);
  });

  const there = await GuestShell.resume(b.driver, b.plan, signal);
  t.equal(await there.run("md5sum /data/before"), sum, "what it had written is there");
  const journal = (await there.run("cat /data/journal")).split(/\s+/).map(Number);
  t.same(journal, [...journal.keys()], "its journal has no gap");
  await b.driver.remove(id, b.plan.directory, signal);
});

interface Side {
  readonly host: LibvirtHost;
  readonly driver: LibvirtDriver;
  readonly plan: MachinePlan;
}

async function side(name: string): Promise<Side> {
  const host = await startLibvirtHost(name);
  const driver = await driverOf(host);
  t.teardown(async () => {
    await driver[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
  });
  const spec = create(MachineSpecSchema, {
    ...{ name: id, hostname: "web-1", vcpus: 1, memoryBytes: 128n * MiB, diskBytes: 64n * MiB },
    ...{ power: Power.ON, stopTimeoutSeconds: 0 },
  });
  return { host, driver, plan: { id, spec, image, directory: join(host.machines, id) } };
}

function driverOf({ uri, runtime, directory }: LibvirtHost): Promise<LibvirtDriver> {
  return createLibvirtDriver({ uri, runtime, stateDirectory: directory, log: silentLogger });
}

function moving({ plan }: Side, role: MoveRole, change: Partial<Move> = {}): MachinePlan {
  const move = create(MoveSchema, {
    ...{ migrationId: "one", role, type: MoveType.LIVE, maxDowntimeMs: 500 },
    onUnreachable: OnUnreachable.ABORT,
  });
  const spec = { ...plan.spec, move: Object.assign(move, change) };
  return { ...plan, spec };
}

/** Sends until it is handed over, or `goOn` says no; gives the phases in their order. */
async function send(
  from: Side,
  pipes: ChannelPipes,
  change: Partial<Move>,
  signal: AbortSignal,
  goOn: (progress: SendProgress) => boolean | Promise<boolean> = () => true,
): Promise<string[]> {
  const phases: string[] = [];
  const plan = moving(from, MoveRole.SOURCE, change);
  for await (const progress of from.driver.liveMigration.send(plan, pipes.socketOf, signal)) {
    if (phases.at(-1) !== progress.phase) phases.push(progress.phase);
    if (!(await goOn(progress))) break;
  }
  return phases;
}

async function consoleOf({ driver, plan }: Side): Promise<string> {
  return await readFile(driver.console.logPath(plan.directory), "latin1");
}

function counts(text: string): number[] {
  return Array.from(text.matchAll(/count-(\d+)\r/g), ([, count]) => Number(count));
}

import { create } from "@bufbuild/protobuf";
import { execFile } from "node:child_process";
import { readFile, rm, truncate, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { driverConformance, type Bench } from "#agent/drivers/conformance.ts";
import type { LocalImage, MachineEvent, MachinePlan } from "#agent/drivers/driver.ts";
import { type MachineSpec, MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { deadline } from "#kernel/retry.ts";
import { GuestShell } from "#test/support/guest-shell.ts";
import { loadMicro } from "#test/support/micro.ts";
import { makeQemuBench } from "#test/support/qemu-bench.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const MiB = 1024n ** 2n;
const run = promisify(execFile);
const limitMs = 120_000;

const micro = await loadMicro();

await t.test("the driver conforms", async (t) => {
  await driverConformance(t, { limitMs, make: makeBench });
});

await t.test("a guest lives its life", async (t) => {
  await using bench = await makeBench();
  const { driver } = bench;
  using signal = deadline(limitMs, "the guest's life");
  const script = `#!/bin/sh\necho "user data ran: it's \\"quoted\\", -device x"\n`;
  const wish: Partial<MachineSpec> = {
    hostname: "web-1",
    sshKeys: ['ssh-ed25519 AAAAC3Nza "me",readonly=on'],
    userData: script,
    stopTimeoutSeconds: 60,
    forwards: [create(MachineSpecSchema, { forwards: [{ guestPort: 80 }] }).forwards[0]!],
  };
  const plan = planOf(bench, "vm-life", wish);
  const started = await driver.ensure(plan, signal);
  const shell = await GuestShell.open(driver, plan, signal);

  t.equal(await shell.run("hostname"), "web-1", "its name came with the seed");
  t.match(await shell.run("cat /root/.ssh/authorized_keys"), /AAAAC3Nza/, "so did its key");
  const log = () => readFile(driver.console!.logPath(plan.directory), "utf8");
  await until(async () => (await log()).includes(`user data ran: it's "quoted", -device x`));
  t.match(await shell.run("ip -4 addr show eth0"), started.guestAddress, "it has the address that is told");

  await t.test("forwards come and go while it runs", async (t) => {
    const [forward] = started.forwards;
    t.match(await get(forward?.hostPort), /web-1/, "the host's port leads into the guest");
    const again = await driver.ensure(plan, signal);
    t.same(again.forwards, started.forwards, "the chosen port is kept");
    plan.spec.forwards = [];
    t.same((await driver.ensure(plan, signal)).forwards, [], "it can be taken away");
    await t.rejects(get(forward?.hostPort), /fetch failed/, "then nobody answers");
  });

  await t.test("it grows while it runs, and sees it", async (t) => {
    plan.spec.vcpus = 3;
    plan.spec.memoryBytes = 256n * MiB;
    plan.spec.diskBytes = 96n * MiB;
    const grown = await driver.ensure(plan, signal);
    t.same(
      [grown.vcpus, grown.memoryBytes, grown.diskBytes, grown.pendingRestart],
      [3, 256n * MiB, 96n * MiB, []],
    );
    t.same(grown.startedAt, started.startedAt, "without a restart");
    await until(async () => (await shell.run("nproc")) === "3");
    t.equal(await shell.run("cat /sys/block/vda/size"), String((96n * MiB) / 512n), "the disk");
    const seen = Number(/MemTotal:\s+(\d+)/.exec(await shell.run("cat /proc/meminfo"))?.[1]);
    t.ok(seen > 200 * 1024, `the memory: ${String(seen)} KiB`);
  });

  await t.test("what cannot be done while it runs is named", async (t) => {
    const before = { vcpus: plan.spec.vcpus, memoryBytes: plan.spec.memoryBytes };
    Object.assign(plan.spec, { vcpus: 1, memoryBytes: 100n * MiB });
    t.same((await driver.ensure(plan, signal)).pendingRestart, ["cpus", "memory_bytes"]);
    Object.assign(plan.spec, { vcpus: 64, memoryBytes: 4096n * MiB });
    t.same((await driver.ensure(plan, signal)).pendingRestart, ["cpus", "memory_bytes"]);
    Object.assign(plan.spec, before);
  });

  await t.test("counters count", async (t) => {
    const before = await driver.metrics(plan.id);
    await shell.run("dd if=/dev/urandom of=/data/x bs=1M count=4 && sync");
    const after = await driver.metrics(plan.id);
    t.ok(after && before, "there are some");
    t.ok(Number((after?.diskWriteBytes ?? 0n) - (before?.diskWriteBytes ?? 0n)) >= 4 * 1024 ** 2, "writes");
    t.ok((after?.cpuSeconds ?? 0) > (before?.cpuSeconds ?? 0), "CPU time");
    await until(async () => ((await driver.metrics(plan.id))?.memoryUsedBytes ?? 0n) < 128n * MiB);
    t.ok((after?.diskAllocatedBytes ?? 0n) > 4n * MiB, "the disk takes up room");
  });

  await t.test("its disk is copied as it is at one moment, and it runs on", async (t) => {
    const copy = (name: string, progress: () => void, until: AbortSignal) =>
      driver.diskCopies!.copyDisk(plan, join(bench.directory, name), progress, until);
    const contentOf = async (name: string) => {
      const raw = join(bench.directory, `${name}.raw`);
      await run("qemu-img", ["convert", "-O", "raw", join(bench.directory, name), raw]);
      return await readFile(raw);
    };
    await shell.run("echo early-marker > /data/early && sync");
    await copy("running", () => undefined, signal);
    await shell.run("echo late-marker > /data/late && sync");
    const early = await contentOf("running");
    t.same([early.includes("early-marker"), early.includes("late-marker")], [true, false]);
    const stop = new AbortController();
    await t.rejects(
      copy("broken-off", () => stop.abort(), stop.signal),
      "it can be broken off",
    );
    await copy("again", () => undefined, signal);
    t.ok((await contentOf("again")).includes("late-marker"), "and leaves nothing in the way");
  });

  await t.test("asked to stop, it shuts down in order", async (t) => {
    const off = planOf(bench, "vm-life", { ...wish, diskBytes: 96n * MiB, power: Power.OFF });
    t.equal((await driver.ensure(off, signal)).state, "stopped");
    t.match(await log(), /[Pp]ower [Dd]own/, "and its kernel said so");
  });
});

await t.test("ends that nobody asked for", async (t) => {
  await using bench = await makeBench();
  const { driver } = bench;
  using signal = deadline(limitMs, "ends");
  const plan = planOf(bench, "vm-ends", {});
  const events = driver.events(signal)[Symbol.asyncIterator]();

  await driver.ensure(plan, signal);
  const pid = await pidOf(plan);
  process.kill(pid, "SIGKILL");
  t.match(await endOf(events), { id: plan.id, clean: false }, "a killed process is a crash");

  await driver.ensure(plan, signal);
  const shell = await GuestShell.open(driver, plan, signal);
  shell.type("poweroff\n");
  t.match(await endOf(events), { id: plan.id, clean: true }, "a guest that powers off is not");
  t.equal((await driver.inspect(plan.id))?.state, "stopped");
  await driver.remove(plan.id, plan.directory, signal);
});

await t.test("a new agent takes over what runs", async (t) => {
  await using bench = await makeBench();
  using signal = deadline(limitMs, "taking over");
  const plan = planOf(bench, "vm-adopted", {});
  const before = await bench.driver.ensure(plan, signal);
  const pid = await pidOf(plan);
  const successor = await bench.successor();
  const [found] = await successor.recover([plan], signal);
  t.same(found, before, "it is as it was");
  t.equal(await pidOf(plan), pid, "in the same process");
  await successor.remove(plan.id, plan.directory, signal);
});

await t.test("a guest that does not listen is stopped by force", async (t) => {
  await using bench = await makeBench();
  using signal = deadline(limitMs, "force");
  const hung: LocalImage = { ...micro, commandLine: "console=ttyS0 rdinit=/bin/absent init=/bin/absent" };
  const plan = { ...planOf(bench, "vm-deaf", { stopTimeoutSeconds: 1 }), image: hung };
  await bench.driver.ensure(plan, signal);
  plan.spec.power = Power.OFF;
  const begun = performance.now();
  t.equal((await bench.driver.ensure(plan, signal)).state, "stopped");
  t.ok(performance.now() - begun >= 1000, "after its time was up");
});

await t.test("things that are wrong on the host are told", async (t) => {
  await using bench = await makeBench();
  const { driver } = bench;
  using signal = deadline(limitMs, "wrong things");
  const base = join(bench.directory, `odd, "name'.qcow2`);
  await run("qemu-img", ["create", "-q", "-f", "qcow2", base, "64M"]);
  const disk: LocalImage = { type: "disk", path: base, format: "qcow2" };
  const overlay = (id: string, change: Partial<MachineSpec>) => ({
    ...planOf(bench, id, change),
    image: disk,
  });

  t.equal(
    await reasonOf(driver.ensure(overlay("vm-small", { diskBytes: 32n * MiB }), signal)),
    "DISK_SMALLER_THAN_IMAGE",
  );
  const fine = overlay("vm-fine", { diskBytes: 128n * MiB });
  t.equal(
    (await driver.ensure(fine, signal)).diskBytes,
    128n * MiB,
    "an overlay may be larger; odd names are fine",
  );

  await t.test("a port that is taken", async (t) => {
    const server = createServer().listen(0, "127.0.0.1");
    t.teardown(() => void server.close());
    await until(() => server.listening);
    const hostPort = (server.address() as { port: number }).port;
    fine.spec.forwards = create(MachineSpecSchema, { forwards: [{ guestPort: 22, hostPort }] }).forwards;
    t.equal(await reasonOf(driver.ensure(fine, signal)), "HOST_PORT_IN_USE");
    t.equal((await driver.inspect(fine.id))?.state, "running", "the machine runs on");
    fine.spec.forwards = create(MachineSpecSchema, {
      forwards: [{ guestPort: 22, hostAddress: "127.0.0.1\nquit" }],
    }).forwards;
    t.equal(await reasonOf(driver.ensure(fine, signal)), "FORWARD_INVALID", "no word of ours is theirs");
  });
  await driver.remove(fine.id, fine.directory, signal);

  await writeFile(base, "this is not an image", { flag: "r+" });
  t.equal(await reasonOf(driver.ensure(overlay("vm-bad", {}), signal)), "IMAGE_CORRUPT");
  await rm(base);
  t.equal(await reasonOf(driver.ensure(overlay("vm-none", {}), signal)), "IMAGE_MISSING");
  const own = planOf(bench, "vm-own", { power: Power.OFF });
  await driver.ensure(own, signal);
  await truncate(join(own.directory, "root.qcow2"), 10);
  t.equal(await reasonOf(driver.ensure(own, signal)), "IMAGE_CORRUPT", "a torn disk");
  t.equal(
    await reasonOf(driver.ensure(planOf(bench, "vm-name", { hostname: "a\nb: c" }), signal)),
    "SEED_INVALID",
  );
});

/** Far longer than the path of a socket may be. */
function makeBench(): Promise<Bench> {
  return makeQemuBench(join("a".repeat(60), "b".repeat(60)));
}

function planOf(bench: Bench, id: string, change: Partial<MachineSpec>): MachinePlan {
  const spec = create(MachineSpecSchema, {
    name: id,
    vcpus: 1,
    memoryBytes: 128n * MiB,
    diskBytes: 64n * MiB,
    power: Power.ON,
  });
  return { id, spec: Object.assign(spec, change), image: bench.image, directory: join(bench.directory, id) };
}

async function pidOf(plan: { readonly directory: string }): Promise<number> {
  return Number(await readFile(join(plan.directory, "qemu.pid"), "utf8"));
}

async function endOf(events: AsyncIterator<MachineEvent>): Promise<MachineEvent> {
  for (;;) {
    const next = await events.next();
    if (next.done) throw new Error("the events ended first");
    if (next.value.type === "ended") return next.value;
  }
}

async function get(port: number | undefined): Promise<string> {
  const answer = await fetch(`http://127.0.0.1:${String(port)}/`, { signal: AbortSignal.timeout(60_000) });
  return await answer.text();
}

import { create } from "@bufbuild/protobuf";
import { access, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { driverConformance, type Bench } from "#agent/drivers/conformance.ts";
import type { MachineEvent, MachinePlan } from "#agent/drivers/driver.ts";
import { createLibvirtDriver, type LibvirtDriver } from "#agent/drivers/libvirt/driver.ts";
import { exec } from "#agent/exec.ts";
import { type MachineSpec, MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { deadline } from "#kernel/retry.ts";
import { GuestShell } from "#test/support/guest-shell.ts";
import { startLibvirtHost } from "#test/support/libvirt-host.ts";
import { loadMicro } from "#test/support/micro.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const MiB = 1024n ** 2n;
const limitMs = 120_000;

const micro = await loadMicro();
const host = await startLibvirtHost("host-a");
t.teardown(() => host[Symbol.asyncDispose]());

await t.test("the driver conforms", async (t) => {
  await driverConformance(t, { limitMs, make: makeBench });
});

await t.test(
  "machines of others are listed and left alone, through restarts of the daemon too",
  async (t) => {
    await using bench = await makeBench();
    const { driver } = bench;
    using signal = deadline(limitMs, "others' machines");
    const file = join(bench.directory, "theirs.xml");
    const theirs = `<domain type='qemu'><name>theirs</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>
    <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>`;
    await writeFile(file, theirs.replace("x86_64", process.arch === "arm64" ? "aarch64" : "x86_64"));
    await host.virsh("define", file);
    const spec = create(MachineSpecSchema, {
      ...{ vcpus: 1, memoryBytes: 128n * MiB, diskBytes: 64n * MiB, power: Power.ON },
      forwards: [{ guestPort: 80 }],
    });
    const plan = { id: "vm-ours", spec, image: micro, directory: join(bench.directory, "vm-ours") };
    const ours = await driver.ensure(plan, signal);
    t.ok((ours.forwards[0]?.hostPort ?? 0) > 0, "a port of the host leads into ours");
    await host.stop();
    t.match(await reasonOf(driver.ensure(plan, signal)), "LIBVIRT_UNREACHABLE");
    await host.start();
    t.match(await driver.foreign.list(signal), [
      { name: "theirs", state: "stopped", vcpus: 2, memoryBytes: 64n * MiB, obstacles: [{ code: "disks" }] },
    ]);
    t.same((await driver.ensure(plan, signal)).startedAt, ours.startedAt, "ours ran on without the daemon");
    await writeFile(file, theirs.replace("theirs", "vm-taken"));
    await host.virsh("define", file);
    const taken = { ...plan, id: "vm-taken", directory: join(bench.directory, "vm-taken") };
    t.equal(await reasonOf(driver.ensure(taken, signal)), "DOMAIN_NAME_TAKEN");
    t.equal((await driver.foreign.list(signal)).length, 2, "it is still theirs");
    await driver.remove(plan.id, plan.directory, signal);
  },
);

await t.test("a machine that was there before is adopted as it runs", async (t) => {
  await using bench = await makeBench();
  const { driver, directory } = bench;
  using signal = deadline(limitMs, "adopting");
  const disk = join(directory, "web.qcow2");
  await exec("qemu-img", ["create", "-q", "-f", "qcow2", disk, "64M"], { signal, timeoutMs: limitMs });
  const file = join(directory, "web.xml");
  await writeFile(file, describeWeb(disk));
  await host.virsh("define", file);
  await host.virsh("start", "web");
  const listed = async () => (await driver.foreign.list(signal)).find(({ name }) => name === "web");
  const before = await listed();
  t.match(before, {
    state: "running",
    vcpus: 1,
    disks: [{ target: "vda", sizeBytes: 64n * MiB }],
    obstacles: [],
  });
  const process = await host.virsh("domid", "web");

  const spec = create(MachineSpecSchema, {
    ...{ vcpus: 1, memoryBytes: 128n * MiB, diskBytes: 64n * MiB, power: Power.ON },
    adoption: { uuid: before?.uuid ?? "" },
  });
  const plan: MachinePlan = {
    id: "vm-web",
    spec,
    image: { type: "none" },
    directory: join(directory, "vm-web"),
  };
  const wish = (change: Partial<MachineSpec>) => ({ ...plan, spec: { ...spec, ...change } });
  const adopted = await driver.ensure(plan, signal);
  t.match(adopted, { state: "running", diskBytes: 64n * MiB, pendingRestart: [] });
  t.equal(await host.virsh("domid", "web"), process, "it was not restarted");
  t.equal(await listed(), undefined, "it is none of others' any more");

  await t.test("nobody else adopts it, and the agent finds it again", async (t) => {
    // One whose binding could not be built: it has virsh, and is as good.
    const load = () => Promise.reject(new Error("not built"));
    const { uri, runtime } = host;
    const options = { uri, runtime, stateDirectory: host.directory, log: silentLogger, load };
    const next = await createLibvirtDriver(options);
    t.match((await next.probe(signal)).version, /by virsh$/);
    t.match(await next.foreign.list(signal), [{ name: "web", obstacles: [{ code: "adopted" }] }]);
    const thief = { ...plan, id: "vm-thief", directory: join(directory, "vm-thief") };
    t.equal(await next.inspect("vm-nobody"), undefined);
    t.equal(await reasonOf(next.ensure(thief, signal)), "NOT_ADOPTABLE");
    t.match(await next.recover([plan], signal), [{ id: "vm-web", state: "running" }]);
    t.same(await next.foreign.list(signal), []);
    await next[Symbol.asyncDispose]();
  });

  await t.test("its serial console works", async (t) => {
    const shell = await GuestShell.open(driver, plan, signal);
    t.equal(await shell.run("echo answer-$((6*7))"), "answer-42");
    t.ok((await driver.metrics(plan.id))?.cpuSeconds, "and it is measured");
  });

  await t.test("handed back, or stopped: as its owner says", async (t) => {
    await driver.remove(plan.id, plan.directory, signal);
    t.match(await listed(), { state: "running", obstacles: [] }, "handed back as it ran");
    await driver.ensure(plan, signal);
    await driver.remove(plan.id, plan.directory, signal, { keepDisks: false, adoptionEnd: "stop" });
    t.match(await listed(), { state: "stopped", obstacles: [] }, "stopped, and left there with its disk");
  });

  await t.test("it is started with another size, and tells of its end like any other", async (t) => {
    t.match(
      await driver.ensure(wish({ power: Power.OFF }), signal),
      { state: "stopped" },
      "adopted as it was",
    );
    const larger = wish({ memoryBytes: 160n * MiB, diskBytes: 80n * MiB });
    const started = await driver.ensure(larger, signal);
    t.match(started, { state: "running", memoryBytes: 160n * MiB, diskBytes: 80n * MiB });
    t.ok(started.startedAt, "since when is known");
    const ended = driver.events(signal)[Symbol.asyncIterator]();
    await host.crash("web");
    let told: MachineEvent | undefined;
    while (told?.type !== "ended") told = (await ended.next()).value as MachineEvent;
    t.match(told, { id: "vm-web", clean: false });
    const heir = await bench.successor();
    await heir.remove(plan.id, plan.directory, signal, { keepDisks: false, adoptionEnd: "delete" });
    t.equal(await listed(), undefined, "deleted, by an agent that knows no more than its id");
    await t.rejects(access(disk), { code: "ENOENT" }, "with its disk");
  });
});

/** As an administrator would have made it, with files wherever they please. */
function describeWeb(disk: string): string {
  if (micro.type !== "kernel") throw new Error("the built-in image is a kernel");
  const arch = process.arch === "arm64" ? "aarch64" : "x86_64";
  const who = [process.getuid?.(), process.getgid?.()].map((each) => `+${String(each)}`).join(":");
  return `<domain type='qemu'><name>web</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
    <os><type arch='${arch}' machine='${arch === "x86_64" ? "q35" : "virt"}'>hvm</type>
    <kernel>${micro.kernelPath}</kernel><initrd>${micro.initrdPath}</initrd><cmdline>${micro.commandLine}</cmdline></os>
    <features><acpi/><tcg><tb-cache unit='MiB'>64</tb-cache></tcg></features><cpu mode='maximum'/>
    <seclabel type='static' model='dac' relabel='no'><label>${who}</label></seclabel>
    <devices>
      <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
      <interface type='user'><model type='virtio'/></interface>
      <serial type='pty'><target port='0'/></serial>
    </devices></domain>`;
}

async function makeBench(): Promise<Bench & { readonly driver: LibvirtDriver }> {
  const directory = join(host.machines, "bench");
  await mkdir(directory, { recursive: true });
  const drivers: LibvirtDriver[] = [];
  const make = async () => {
    const { uri, runtime } = host;
    const options = { uri, runtime, stateDirectory: host.directory, log: silentLogger };
    const driver = await createLibvirtDriver(options);
    drivers.push(driver);
    return driver;
  };
  return {
    driver: await make(),
    image: micro,
    directory,
    successor: make,
    crash: async (id) => {
      await host.crash(id);
      // libvirt hears of it a moment later, on a busy machine.
      await until(async () => !(await host.virsh("domstate", id)).includes("running"));
    },
    [Symbol.asyncDispose]: async () => {
      for (const driver of drivers) await driver[Symbol.asyncDispose]();
      for (const name of (await host.virsh("list", "--all", "--name")).split("\n").filter(Boolean)) {
        await host.virsh("destroy", name).catch(() => undefined); // it may be off
        await host.virsh("undefine", name);
      }
      await rm(directory, { recursive: true, force: true });
    },
  };
}

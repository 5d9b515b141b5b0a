import { create } from "@bufbuild/protobuf";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { driverConformance, type Bench } from "#agent/drivers/conformance.ts";
import { createLibvirtDriver, type LibvirtDriver } from "#agent/drivers/libvirt/driver.ts";
import { MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { deadline } from "#kernel/retry.ts";
import { startLibvirtHost } from "#test/support/libvirt-host.ts";
import { loadMicro } from "#test/support/micro.ts";
import { reasonOf } from "#test/support/reason-of.ts";

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
    t.match(await driver.listOthers(signal), [
      { name: "theirs", state: "stopped", vcpus: 2, memoryBytes: 64n * MiB },
    ]);
    t.same((await driver.ensure(plan, signal)).startedAt, ours.startedAt, "ours ran on without the daemon");
    await writeFile(file, theirs.replace("theirs", "vm-taken"));
    await host.virsh("define", file);
    const taken = { ...plan, id: "vm-taken", directory: join(bench.directory, "vm-taken") };
    t.equal(await reasonOf(driver.ensure(taken, signal)), "DOMAIN_NAME_TAKEN");
    t.equal((await driver.listOthers(signal)).length, 2, "it is still theirs");
    await driver.remove(plan.id, plan.directory, signal);
  },
);

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
    crash: (id) => host.crash(id),
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

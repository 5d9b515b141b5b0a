import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { driverConformance, type Bench } from "#agent/drivers/conformance.ts";
import { createLibvirtDriver, type LibvirtDriver } from "#agent/drivers/libvirt/driver.ts";
import { silentLogger } from "#kernel/log.ts";
import { startLibvirtHost } from "#test/support/libvirt-host.ts";
import { loadMicro } from "#test/support/micro.ts";

const limitMs = 120_000;

const micro = await loadMicro();
const host = await startLibvirtHost("host-a");
t.teardown(() => host[Symbol.asyncDispose]());

await t.test("the driver conforms", async (t) => {
  await driverConformance(t, { limitMs, make: makeBench });
});

async function makeBench(): Promise<Bench> {
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

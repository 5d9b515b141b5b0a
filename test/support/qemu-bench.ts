/** A host for the conformance of the QEMU driver: the built-in guest, and a folder for its machines. */
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Bench } from "#agent/drivers/conformance.ts";
import { machineFiles } from "#agent/drivers/hypervisor/files.ts";
import { createQemuDriver } from "#agent/drivers/qemu/driver.ts";
import { silentLogger } from "#kernel/log.ts";
import { loadMicro } from "./micro.ts";

/** @param below where its machines' folders are, below the bench's own */
export async function makeQemuBench(below: string): Promise<Bench> {
  const image = await loadMicro();
  const root = await mkdtemp(join(tmpdir(), "qemu-driver-"));
  const directory = join(root, below);
  await mkdir(directory, { recursive: true });
  const options = { stateDirectory: root, log: silentLogger };
  const drivers = [createQemuDriver(options)];
  return {
    driver: drivers[0]!,
    image,
    directory,
    successor: async () => {
      const successor = createQemuDriver(options);
      drivers.push(successor);
      return successor;
    },
    crash: async (id) => {
      const { pidFile } = machineFiles(join(directory, id));
      process.kill(Number(await readFile(pidFile, "utf8")), "SIGKILL");
    },
    [Symbol.asyncDispose]: async () => {
      for (const id of (await readdir(directory)).filter((name) => name.startsWith("vm-"))) {
        await drivers.at(-1)!.remove(id, join(directory, id), AbortSignal.timeout(60_000));
      }
      for (const driver of drivers) await driver[Symbol.asyncDispose]();
      await rm(root, { recursive: true });
    },
  };
}

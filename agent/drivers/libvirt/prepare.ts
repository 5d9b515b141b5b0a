/** What a machine has on this host before libvirt hears of it: its folder, disk and seed. */
import { access, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { MachinePlan } from "../driver.ts";
import { ensureDisk } from "../hypervisor/disk.ts";
import { machineFiles } from "../hypervisor/files.ts";
import { hostFault } from "../hypervisor/host-fault.ts";
import { deriveIdentity } from "../hypervisor/identity.ts";
import { ensureSeed } from "../hypervisor/seed.ts";

/** Makes what is missing. For machines that do not run. */
export async function prepareFolder(
  { id, spec, image, directory }: MachinePlan,
  signal: AbortSignal,
): Promise<void> {
  const files = machineFiles(directory);
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await rm(staleDisk(directory), { force: true });
  } catch (error) {
    throw hostFault(error, "the machine's folder cannot be made");
  }
  await Promise.all([
    ensureDisk({ path: files.rootDisk, image, bytes: spec.diskBytes }, signal),
    ensureSeed(files, { id, macAddress: deriveIdentity(id).macAddress }, spec, signal),
  ]);
}

/** Notes, before its disk is made, that the machine is to arrive from another host: until it has, there is half of it. */
export async function markIncoming(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await writeFile(incomingMark(directory), "");
}

export async function unmarkIncoming(directory: string): Promise<void> {
  await rm(incomingMark(directory), { force: true });
}

export async function isMarkedIncoming(directory: string): Promise<boolean> {
  return await access(incomingMark(directory)).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      unlessAbsent(error);
      return false;
    },
  );
}

function incomingMark(directory: string): string {
  return join(directory, "incoming");
}

/** Sets the disk aside. libvirt copies all that was written, so nothing is made of it yet. */
export async function keepStaleDisk(directory: string): Promise<void> {
  await rename(machineFiles(directory).rootDisk, staleDisk(directory)).catch(unlessAbsent);
}

function staleDisk(directory: string): string {
  return `${machineFiles(directory).rootDisk}.stale`;
}

function unlessAbsent(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOENT") throw error;
}

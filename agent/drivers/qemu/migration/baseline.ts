/**
 * Since which migration it is known what was written to a machine's disks: a persistent dirty bitmap on each, named for
 * that migration, made after the machine had arrived by it and before its guest ran. One that was not stored because
 * QEMU was killed is of no use, which QEMU itself sees to.
 */
import type { DirtyBitmap } from "#agent/qmp/commands.ts";
import { addBitmap, listBitmaps } from "../../hypervisor/disk-bitmaps.ts";
import type { MachineFiles } from "../../hypervisor/files.ts";
import type { RunningMachine } from "../running-machine.ts";
import { movedDisks } from "./channels.ts";

/** One bit for so many bytes: qcow2's own unit, so that nothing smaller would take less room. */
export const bitmapGranularity = 65536;

export function baselineBitmap(migrationId: string): string {
  return `since-${migrationId}`;
}

export async function readBitmaps(
  machine: RunningMachine,
  node: string,
  signal: AbortSignal,
): Promise<readonly DirtyBitmap[]> {
  const nodes = await machine.execute("query-named-block-nodes", { flat: true }, signal);
  return nodes.find((one) => one["node-name"] === node)?.["dirty-bitmaps"] ?? [];
}

/** True when all that was written to its disks since is marked. */
export async function hasBaseline(
  machine: RunningMachine,
  migrationId: string,
  signal: AbortSignal,
): Promise<boolean> {
  for (const { node } of movedDisks) {
    const bitmaps = await readBitmaps(machine, node, signal);
    const found = bitmaps.find(({ name }) => name === baselineBitmap(migrationId));
    if (!found?.recording || found.inconsistent === true) return false;
  }
  return true;
}

/** As {@link hasBaseline}, of a machine that is off. */
export async function hasStoredBaseline(
  { rootDisk }: MachineFiles,
  migrationId: string,
  signal: AbortSignal,
): Promise<boolean> {
  const bitmaps = await listBitmaps(rootDisk, signal);
  return bitmaps.some(({ name, complete }) => complete && name === baselineBitmap(migrationId));
}

/**
 * Begins to mark what is written. Only for a guest that has never run here: what it had written would be missing. Fails
 * when it was begun already, which is fine then.
 */
export async function beginBaseline(
  machine: RunningMachine,
  migrationId: string,
  signal: AbortSignal,
): Promise<void> {
  const name = baselineBitmap(migrationId);
  for (const { node } of movedDisks) {
    const bitmap = { node, name, persistent: true, granularity: bitmapGranularity };
    await machine.execute("block-dirty-bitmap-add", bitmap, signal);
  }
}

/** As {@link beginBaseline}, of a machine that is off. */
export async function storeBaseline(
  { rootDisk }: MachineFiles,
  migrationId: string,
  signal: AbortSignal,
): Promise<void> {
  await addBitmap(rootDisk, baselineBitmap(migrationId), signal);
}

/** Takes away what QEMU has read and cannot use: such a bitmap would keep the disk from growing. */
export async function dropBrokenBitmaps(machine: RunningMachine, signal: AbortSignal): Promise<void> {
  await dropBitmaps(machine, ({ inconsistent }) => inconsistent === true, signal);
}

/** Takes away what counts from elsewhere: on a disk that another machine's state is written to. */
export async function dropAllBitmaps(machine: RunningMachine, signal: AbortSignal): Promise<void> {
  await dropBitmaps(machine, () => true, signal);
}

export async function dropBitmaps(
  machine: RunningMachine,
  isMeant: (bitmap: DirtyBitmap) => boolean,
  signal: AbortSignal,
): Promise<void> {
  for (const { node } of movedDisks) {
    const meant = (await readBitmaps(machine, node, signal)).filter(isMeant);
    for (const { name } of meant) await machine.execute("block-dirty-bitmap-remove", { node, name }, signal);
  }
}

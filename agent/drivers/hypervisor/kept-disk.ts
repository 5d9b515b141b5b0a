/**
 * The disk of a machine that a move has taken away, kept as it was then. Its name says by which move, so that it can
 * neither be taken for a machine's disk nor for the state after any other move, and one rename makes it the one or the other.
 */
import { readdir, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import type { MachineFiles } from "./files.ts";
import { hostFault } from "./host-fault.ts";

const keptName = /^kept-[\w-]{1,100}\.qcow2$/;

/**
 * Keeps the root disk as a move has left it, and nothing else of the folder. False: there is none to keep.
 * @param takenBy the move; undefined: none, or it was kept before
 */
export async function keepDisk(
  { rootDisk, directory }: MachineFiles,
  takenBy: string | undefined,
): Promise<boolean> {
  try {
    const target = keptAs(takenBy ?? "");
    if (target !== undefined) await renameIfThere(rootDisk, join(directory, target));
    const names = await readdir(directory);
    const kept = names.filter((name) => keptName.test(name));
    const wanted = kept.find((name) => name === target) ?? kept[0];
    if (names.includes(basename(rootDisk)) || wanted === undefined) return false;
    for (const name of names)
      if (name !== wanted) await rm(join(directory, name), { recursive: true, force: true });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw hostFault(error, "the machine's disk cannot be kept");
  }
}

/** Makes the disk that is kept since that move the machine's disk again. False: there is none. */
export async function takeKeptDisk({ rootDisk, directory }: MachineFiles, since: string): Promise<boolean> {
  const kept = keptAs(since);
  try {
    return kept !== undefined && (await renameIfThere(join(directory, kept), rootDisk));
  } catch (error) {
    throw hostFault(error, "the disk that was kept cannot be taken");
  }
}

/** Deletes what is kept: a machine is made anew here, and would be older than it. */
export async function dropKeptDisks(directory: string): Promise<void> {
  try {
    const names = await readdir(directory);
    for (const name of names) if (keptName.test(name)) await rm(join(directory, name), { force: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT")
      throw hostFault(error, "a disk that was kept cannot be deleted");
  }
}

/** Undefined for what is no migration's id. */
function keptAs(migrationId: string): string | undefined {
  const name = `kept-${migrationId}.qcow2`;
  return keptName.test(name) ? name : undefined;
}

async function renameIfThere(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

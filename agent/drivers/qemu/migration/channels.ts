/** The connections between two QEMUs that a move needs, by name, and where the destination's QEMU listens for them. */
import { open } from "node:fs/promises";
import { Fault } from "#kernel/fault.ts";

export interface MovedDisk {
  /** The channel's, and the export's at the destination. */
  readonly name: string;
  /** Of the block node, at both ends. */
  readonly node: string;
  /** At the source: the copying job, and the node that stands for the destination's disk. */
  readonly job: string;
  readonly target: string;
}

/** The seed is made anew at the destination. */
export const movedDisks: readonly MovedDisk[] = [
  { name: "root", node: "root", job: "move-root", target: "move-root-target" },
];

export const memoryChannel = "memory";
export const memorySocketName = "move-memory.sock";
/** One server for all disks: the client names the one it wants. */
export const diskSocketName = "move-disks.sock";
/** At the source: where what was written to its disks is read. */
export const readSocketName = "move-read.sock";

export function diskChannel(disk: MovedDisk): string {
  return `disk:${disk.name}`;
}

/**
 * The name under which the destination serves its disk. One that was kept has another name than a new one, and than one
 * that was kept since another migration: a source that is mistaken about it does not find it.
 */
export function exportOf({ name }: MovedDisk, baseline: string): string {
  return baseline === "" ? name : `${name}@${baseline}`;
}

/** All channels of a move. */
export function listChannels(): string[] {
  return [memoryChannel, ...movedDisks.map(diskChannel)];
}

/** The socket in the machine's folder that a channel leads to. */
export function channelEnd(channel: string): string {
  if (channel === memoryChannel) return memorySocketName;
  if (movedDisks.some((disk) => diskChannel(disk) === channel)) return diskSocketName;
  throw new Fault("notFound", `there is no channel ${JSON.stringify(channel)}`, {
    reason: "NO_SUCH_CHANNEL",
  });
}

/**
 * Has QEMU open a socket in a machine's folder. A socket's path may have 107 bytes and a QEMU that runs has no working
 * directory to start from, so it is given our descriptor of the folder, which it needs for as long as `work` takes.
 */
export async function withShortPath<T>(
  directory: string,
  name: string,
  work: (path: string) => Promise<T>,
): Promise<T> {
  await using folder = await open(directory, "r");
  return await work(`/proc/${String(process.pid)}/fd/${String(folder.fd)}/${name}`);
}

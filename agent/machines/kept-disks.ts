/** Which of the disks that are kept for moves back have to go: in time, or earlier when the host needs the room. */
import { readdir, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import type { LedgerEntry } from "./entry.ts";
import { isTombstone } from "./entry.ts";

export interface KeptDisks {
  readonly id: string;
  readonly untilMs: number;
  readonly bytes: number;
}

/** Of the file system that they are on. */
export interface Room {
  readonly totalBytes: number;
  readonly freeBytes: number;
}

/** All that is kept may take up so much of the file system, and nothing is kept at the cost of its last part. */
const mostShare = 0.2;
const leastFreeShare = 0.1;

/** The ids of those to drop: what is past its time, then what would go next, until there is room. Pure. */
export function chooseToDrop(kept: readonly KeptDisks[], room: Room, nowMs: number): readonly string[] {
  let keptBytes = kept.reduce((sum, { bytes }) => sum + bytes, 0);
  let freeBytes = room.freeBytes;
  const dropped: string[] = [];
  for (const { id, untilMs, bytes } of [...kept].sort((a, b) => a.untilMs - b.untilMs)) {
    const isShort = keptBytes > mostShare * room.totalBytes || freeBytes < leastFreeShare * room.totalBytes;
    if (untilMs > nowMs && !isShort) break;
    dropped.push(id);
    keptBytes -= bytes;
    freeBytes += bytes;
  }
  return dropped;
}

/** What is kept on this host. One that came back meanwhile has taken over what was kept of it. */
export async function listKept(
  entries: readonly LedgerEntry[],
  directoryOf: (id: string) => string,
): Promise<readonly KeptDisks[]> {
  const kept: KeptDisks[] = [];
  for (const entry of entries) {
    const { keptUntilMs } = entry.progress;
    if (keptUntilMs === undefined || !isTombstone(entry)) continue;
    kept.push({ id: entry.id, untilMs: keptUntilMs, bytes: await folderBytes(directoryOf(entry.id)) });
  }
  return kept;
}

/** The room of the file system that a folder is on. */
export async function measureRoom(directory: string): Promise<Room> {
  const { bsize, blocks, bavail } = await statfs(directory);
  return { totalBytes: blocks * bsize, freeBytes: bavail * bsize };
}

/** Bytes of the host's disk; 0 for a folder that is not there. */
async function folderBytes(directory: string): Promise<number> {
  try {
    const names = await readdir(directory);
    const sizes = await Promise.all(
      names.map(async (name) => (await stat(join(directory, name))).blocks * 512),
    );
    return sizes.reduce((sum, bytes) => sum + bytes, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0;
    throw error;
  }
}

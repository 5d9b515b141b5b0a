/** A disk that a move has taken away whole, kept: its pages, and after them the id of that move. */
import { appendFile, open, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { guestFiles } from "./guest.ts";
import { pageBytes } from "./page-file.ts";

const staleName = "stale.bin";

export async function keepStaleDisk(directory: string, takenBy: string): Promise<void> {
  const { disk } = guestFiles(directory);
  try {
    await rename(disk, join(directory, staleName));
    await appendFile(join(directory, staleName), takenBy);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // it never had one, or this was done before
  }
}

/** Makes the disk that is kept since that move the machine's disk again; any other is dropped. False: there was none. */
export async function takeStaleDisk(directory: string, since: string): Promise<boolean> {
  const path = join(directory, staleName);
  if (since === "" || (await readMark(path)) !== since) {
    await rm(path, { force: true });
    return false;
  }
  await rename(path, guestFiles(directory).disk);
  return true;
}

/** Takes the mark off on the way: a disk that has none is nobody's. */
async function readMark(path: string): Promise<string> {
  try {
    await using file = await open(path, "r+");
    const { size } = await file.stat();
    const wholeBytes = size - (size % pageBytes);
    const mark = Buffer.alloc(size - wholeBytes);
    await file.read(mark, 0, mark.length, wholeBytes);
    await file.truncate(wholeBytes);
    return mark.toString();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

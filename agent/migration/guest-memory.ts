/**
 * A guest's memory at the destination, written by the coding threads: what they have decoded goes to where it belongs
 * without a detour through sockets and the hypervisor, and where the guest's memory has yet to be found and cleared by
 * the kernel, that is their work and holds nothing else up.
 */
import { writeSync } from "node:fs";
import { pageBytes } from "./pages/scanner.ts";
import { readSorted } from "./pages/sorted-block.ts";
import { corrupted, hypervisorGone } from "./protocol.ts";

/** One block of a guest's memory, of which nothing is written yet. */
export interface GuestMemory extends PlacedAt, AsyncDisposable {}

interface PlacedAt {
  /** As the source's hypervisor calls it as well. */
  readonly name: string;
  readonly bytes: number;
  /** A file's descriptor, and where in the file the block begins. */
  readonly descriptor: number;
  readonly position: number;
}

/** For the threads, which share it. */
export interface PlacedMemory extends PlacedAt {
  /** A bit for each page: set while it may hold anything but zeros. */
  readonly filled: Int32Array;
}

const bitsPerWord = 32;
const zeros = Buffer.alloc(64 * pageBytes);

export function emptyMemory({ name, bytes, descriptor, position }: GuestMemory): PlacedMemory {
  const words = Math.ceil(bytes / pageBytes / bitsPerWord);
  const filled = new Int32Array(new SharedArrayBuffer(words * Int32Array.BYTES_PER_ELEMENT));
  return { name, bytes, descriptor, position, filled };
}

/**
 * Writes a sorted block's pages, and gives the bytes that are for the hypervisor.
 * Throws MOVE_CORRUPTED for pages that the guest does not have, and MOVE_HYPERVISOR_GONE.
 */
export function placeBlock(block: Buffer, memory: PlacedMemory): Buffer {
  const { runs, rest } = readSorted(block);
  for (const { firstPage, count, contents } of runs) {
    const end = firstPage + count;
    if (end * pageBytes > memory.bytes) throw corrupted("a page is not in the guest's memory");
    if (!contents) {
      clear(memory, firstPage, end);
      continue;
    }
    write(memory, contents, firstPage);
    for (let page = firstPage; page < end; page++) Atomics.or(memory.filled, wordOf(page), bitOf(page));
  }
  return rest;
}

/** Pages that are zero already are left alone: one that was never written takes no memory. */
function clear(memory: PlacedMemory, from: number, end: number): void {
  const { filled } = memory;
  for (let page = from; page < end;) {
    const first = page;
    while (page < end && (page - first) * pageBytes < zeros.length) {
      if ((Atomics.and(filled, wordOf(page), ~bitOf(page)) & bitOf(page)) === 0) break;
      page++;
    }
    if (page === first) page++;
    else write(memory, zeros.subarray(0, (page - first) * pageBytes), first);
  }
}

function wordOf(page: number): number {
  return Math.floor(page / bitsPerWord);
}

function bitOf(page: number): number {
  return 1 << (page % bitsPerWord);
}

function write({ descriptor, position }: PlacedMemory, bytes: Buffer, page: number): void {
  const at = position + page * pageBytes;
  try {
    for (let done = 0; done < bytes.length;) {
      const count = writeSync(descriptor, bytes, done, bytes.length - done, at + done);
      // So the kernel says that the process has ended.
      if (count === 0) throw new Error("nothing could be written");
      done += count;
    }
  } catch (cause) {
    throw hypervisorGone(cause);
  }
}

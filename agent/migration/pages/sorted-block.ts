/**
 * Pages apart from the stream that they came in, for a destination that writes its guest's memory itself (`../guest-memory.ts`):
 * its hypervisor is told the rest, as if those pages had never been mentioned.
 *
 * A sorted block, little-endian: u32 count of runs; for each u32 first page, u32 count of pages, its highest bit set for
 * pages of zeros; then the contents of the pages that have any, one after the other; then the rest of the stream's bytes.
 */
import { corrupted } from "../protocol.ts";
import { copyInto } from "../slabs.ts";
import { headBytes, pageBytes, type PageRun } from "./scanner.ts";

export interface Sorted {
  readonly block: Buffer;
  /** Offsets of its pages. */
  readonly pages: Uint32Array;
}

/** What a sorted block says of pages that follow each other in memory. */
export interface PlacedRun {
  readonly firstPage: number;
  readonly count: number;
  /** Undefined: they are all zero. */
  readonly contents: Buffer | undefined;
}

const wordBytes = 4;
const runBytes = 2 * wordBytes;
const zeroBit = 0x8000_0000;
/** What a sorted block may be longer than the stream's bytes by: a run takes no more than the head of a record does. */
export const sortedHeadBytes = wordBytes;

/**
 * Sorts a block into the target, which must be longer than it by {@link sortedHeadBytes}.
 * @param runs in the order of the block; of a page's records, none is ever missing
 */
export function sortBlock(raw: Buffer, runs: readonly PageRun[], target: Buffer): Sorted {
  let at = target.writeUInt32LE(runs.length, 0);
  for (const { firstPage, count, bodyBytes } of runs) {
    at = target.writeUInt32LE(firstPage, at);
    at = target.writeUInt32LE(bodyBytes < pageBytes ? zeroBit + count : count, at);
  }
  const pages = pageOffsets(runs).map((body) => {
    const page = at;
    at += copyInto(target, at, raw.subarray(body, body + pageBytes));
    return page;
  });
  let end = 0;
  for (const run of runs) {
    at += copyInto(target, at, raw.subarray(end, run.offset));
    end = run.offset + run.firstHeadBytes + run.count * run.bodyBytes + (run.count - 1) * headBytes;
  }
  at += copyInto(target, at, raw.subarray(end));
  return { block: target.subarray(0, at), pages };
}

/** Where in their block the contents of these pages begin. */
export function pageOffsets(runs: readonly PageRun[]): Uint32Array {
  const offsets = new Uint32Array(countPages(runs));
  let index = 0;
  for (const { offset, firstHeadBytes, bodyBytes, count } of runs) {
    if (bodyBytes < pageBytes) continue;
    const first = offset + firstHeadBytes;
    for (let page = 0; page < count; page++) offsets[index++] = first + page * (headBytes + pageBytes);
  }
  return offsets;
}

/** How many pages have contents. */
export function countPages(runs: readonly PageRun[]): number {
  return runs.reduce((sum, { bodyBytes, count }) => sum + (bodyBytes === pageBytes ? count : 0), 0);
}

/** Takes a sorted block apart. Throws MOVE_CORRUPTED for one that makes no sense. */
export function readSorted(block: Buffer): { readonly runs: readonly PlacedRun[]; readonly rest: Buffer } {
  const length = block.length >= wordBytes ? block.readUInt32LE(0) : Infinity;
  let at = wordBytes + length * runBytes;
  if (at > block.length) throw senseless();
  const runs: PlacedRun[] = [];
  for (let index = 0; index < length; index++) {
    const firstPage = block.readUInt32LE(wordBytes + index * runBytes);
    const word = block.readUInt32LE(2 * wordBytes + index * runBytes);
    const count = word % zeroBit;
    const from = at;
    if (word < zeroBit) at += count * pageBytes;
    if (at > block.length) throw senseless();
    runs.push({ firstPage, count, contents: word < zeroBit ? block.subarray(from, at) : undefined });
  }
  return { runs, rest: block.subarray(at) };
}

function senseless(): Error {
  return corrupted("a block has no room for the pages that it speaks of");
}

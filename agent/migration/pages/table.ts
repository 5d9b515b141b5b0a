/**
 * Where in the image files a page may be found: a hash table of their 4 KiB blocks, with a filter before it that tells
 * most other pages apart by a few of their words. Its memory is bounded, and shared by the threads. A wrong answer
 * costs a read and no more: whoever asks compares the bytes.
 */
import { open, type FileHandle } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { xxh64 } from "@node-rs/xxhash";
import type { PageFile } from "../coding/tasks.ts";
import { pageBytes } from "./scanner.ts";

export interface PageTable {
  /** Pairs of a fingerprint and a block's number plus 1; 0: free. Blocks are counted through all files. */
  readonly slots: SharedArrayBuffer;
  readonly filter: SharedArrayBuffer;
  readonly blocks: number;
}

/** Of 4 KiB each: 4 GiB of contents, 16 MiB of table for each two. */
const maxBlocks = 1024 * 1024;
/** What is read of a file at most, holes included. */
const maxFileBytes = 32 * 1024 ** 3;
const readBytes = 1024 * 1024;
/** Bits of the filter for each block: about one in sixteen other pages passes. */
const filterBitsPerBlock = 16;
const maxProbes = 32;

/** Number of the file's first block when all files' blocks are counted through. */
export function firstBlocks(files: readonly PageFile[]): number[] {
  let next = 0;
  return files.map(({ bytes }) => {
    const first = next;
    next += Math.ceil(bytes / pageBytes);
    return first;
  });
}

/** Reads the files once; blocks of zeros are left out, since zero pages are never sent. Lets other work in between. */
export async function buildPageTable(files: readonly PageFile[]): Promise<PageTable> {
  const blocks = Math.max(1, Math.min(maxBlocks, await countBlocks(files)));
  const table: PageTable = {
    slots: new SharedArrayBuffer(powerOfTwo(blocks * 2) * 8),
    filter: new SharedArrayBuffer(powerOfTwo(blocks * filterBitsPerBlock) / 8),
    blocks,
  };
  const writer = new PageTableView(table);
  const firsts = firstBlocks(files);
  for (const [index, file] of files.entries()) await addFile(writer, file, firsts[index] ?? 0);
  return table;
}

async function addFile(writer: PageTableView, { path, bytes }: PageFile, firstBlock: number): Promise<void> {
  const buffer = Buffer.allocUnsafeSlow(readBytes);
  const zeros = Buffer.alloc(readBytes);
  await using file = await open(path);
  const end = Math.min(bytes, maxFileBytes);
  for (let at = 0; at + pageBytes <= end; at += readBytes) {
    const length = await fill(file, buffer, at);
    if (buffer.compare(zeros, 0, length, 0, length) === 0) continue;
    for (let page = 0; page + pageBytes <= length; page += pageBytes) {
      if (buffer.compare(zeros, 0, pageBytes, page, page + pageBytes) === 0) continue;
      if (!writer.add(buffer, page, firstBlock + (at + page) / pageBytes)) return;
    }
    await setImmediate();
  }
}

async function fill(file: FileHandle, buffer: Buffer, position: number): Promise<number> {
  const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
  return bytesRead;
}

async function countBlocks(files: readonly PageFile[]): Promise<number> {
  let bytes = 0;
  for (const { path } of files) {
    await using file = await open(path);
    const { blocks, size } = await file.stat();
    bytes += Math.min(size, blocks * 512 + pageBytes);
  }
  return Math.ceil(bytes / pageBytes);
}

/** One thread's view of a table. */
export class PageTableView {
  readonly #slots: Uint32Array;
  readonly #filter: Uint8Array;
  readonly #slotMask: number;
  readonly #bitMask: number;
  #free: number;

  constructor({ slots, filter, blocks }: PageTable) {
    this.#slots = new Uint32Array(slots);
    this.#filter = new Uint8Array(filter);
    this.#slotMask = this.#slots.length / 2 - 1;
    this.#bitMask = this.#filter.length * 8 - 1;
    this.#free = blocks;
  }

  /** False when the table is full. */
  add(bytes: Buffer, at: number, block: number): boolean {
    if (this.#free === 0) return false;
    const { fingerprint, slot } = this.#hash(bytes, at);
    for (let probe = 0; probe < maxProbes; probe++) {
      const index = ((slot + probe) & this.#slotMask) * 2;
      if (this.#slots[index + 1] === 0) {
        this.#slots[index] = fingerprint;
        this.#slots[index + 1] = block + 1;
        const bit = sample(bytes, at) & this.#bitMask;
        this.#filter[bit >>> 3] = (this.#filter[bit >>> 3] ?? 0) | (1 << (bit & 7));
        this.#free--;
        return true;
      }
      if (this.#slots[index] === fingerprint) return true; // the same page, as good as certainly
    }
    return true; // crowded here: this block will not be found
  }

  /** The block that the page at `at` probably equals; -1 for none. */
  find(bytes: Buffer, at: number): number {
    const bit = sample(bytes, at) & this.#bitMask;
    if (((this.#filter[bit >>> 3] ?? 0) & (1 << (bit & 7))) === 0) return -1;
    const { fingerprint, slot } = this.#hash(bytes, at);
    for (let probe = 0; probe < maxProbes; probe++) {
      const index = ((slot + probe) & this.#slotMask) * 2;
      const block = this.#slots[index + 1] ?? 0;
      if (block === 0) return -1;
      if (this.#slots[index] === fingerprint) return block - 1;
    }
    return -1;
  }

  #hash(bytes: Buffer, at: number): { fingerprint: number; slot: number } {
    const hash = xxh64(bytes.subarray(at, at + pageBytes));
    return { fingerprint: Number(hash & 0xffffffffn), slot: Number(hash >> 32n) & this.#slotMask };
  }
}

/** A hash of a few words of a page: little work, and enough to tell most pages apart. */
function sample(bytes: Buffer, at: number): number {
  let mixed = bytes.readInt32LE(at);
  for (let offset = 452; offset < pageBytes; offset += 728) {
    mixed = Math.imul(mixed ^ bytes.readInt32LE(at + offset), 0x9e3779b1);
    mixed ^= mixed >>> 15;
  }
  return mixed >>> 0;
}

function powerOfTwo(least: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(least, 8)));
}

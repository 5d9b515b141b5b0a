/**
 * The page stage: pages that are in a file which both hosts have become references. The other host counts its files
 * for itself, so a reference names a file by its place in the list with which the destination opened the channel.
 *
 * A staged block, little-endian: u32 count, then three columns of u32, one entry for each page that was taken out: bytes
 * kept since the last one, the file's place, and the block's number less the one that would follow the last reference
 * (columns, because most entries are equal and compress to nothing). Then the bytes that were kept.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { corrupted } from "../protocol.ts";
import { copyInto } from "../slabs.ts";
import type { OpenPagesTask } from "../coding/tasks.ts";
import { pageBytes } from "./scanner.ts";
import { firstBlocks, PageTableView } from "./table.ts";

interface OpenFile {
  readonly descriptor: number;
  readonly firstBlock: number;
  readonly bytes: number;
  /** At the source: its place in the other host's list; -1 when it is not there. */
  readonly peerNumber: number;
}

const columns = 3;
const wordBytes = 4;

export class PageSet {
  readonly #files: readonly OpenFile[];
  readonly #view: PageTableView | undefined;
  readonly #page = Buffer.allocUnsafeSlow(pageBytes);
  #staged = Buffer.alloc(0);

  constructor({ files, table, peerNumbers }: OpenPagesTask) {
    const firsts = firstBlocks(files);
    this.#files = files.map(({ path, bytes }, index) => ({
      descriptor: openSync(path, "r"),
      firstBlock: firsts[index] ?? 0,
      bytes,
      peerNumber: peerNumbers?.[index] ?? -1,
    }));
    this.#view = table && new PageTableView(table);
  }

  close(): void {
    for (const { descriptor } of this.#files) closeSync(descriptor);
  }

  /**
   * Takes out the pages that both hosts have; undefined when there is none. The block is good until the next call.
   * @param pages offsets of whole pages in `raw`, ascending
   */
  stage(
    raw: Buffer,
    pages: Uint32Array,
  ): { readonly block: Buffer; readonly references: number } | undefined {
    const found: { at: number; file: number; block: number }[] = [];
    for (const at of pages) {
      const reference = this.#lookUp(raw, at);
      if (reference) found.push({ at, ...reference });
    }
    if (found.length === 0) return undefined;
    const headBytes = wordBytes * (1 + columns * found.length);
    const bytes = headBytes + raw.length - found.length * pageBytes;
    if (this.#staged.length < bytes) this.#staged = Buffer.allocUnsafeSlow(bytes);
    const block = this.#staged.subarray(0, bytes);
    block.writeUInt32LE(found.length, 0);
    let [kept, end, expected] = [headBytes, 0, 0];
    for (const [index, { at, file, block: number }] of found.entries()) {
      const column = (which: number) => wordBytes * (1 + which * found.length + index);
      block.writeUInt32LE(at - end, column(0));
      block.writeUInt32LE(file, column(1));
      block.writeUInt32LE((number - expected) >>> 0, column(2));
      kept += copyInto(block, kept, raw.subarray(end, at));
      end = at + pageBytes;
      expected = number + 1;
    }
    copyInto(block, kept, raw.subarray(end));
    return { block, references: found.length };
  }

  /** Puts the pages back; gives exactly as much as `raw` holds. Throws MOVE_CORRUPTED for a block that makes no sense. */
  unstage(block: Buffer, raw: Buffer): void {
    const count = block.length >= wordBytes ? block.readUInt32LE(0) : 0;
    const headBytes = wordBytes * (1 + columns * count);
    if (count === 0 || headBytes + raw.length - count * pageBytes !== block.length) throw senseless();
    let [kept, end, expected] = [headBytes, 0, 0];
    for (let index = 0; index < count; index++) {
      const word = (which: number) => block.readUInt32LE(wordBytes * (1 + which * count + index));
      const at = end + word(0);
      const number = (expected + word(2)) >>> 0;
      if (at + pageBytes > raw.length || kept + at - end > block.length) throw senseless();
      kept += copyInto(raw, end, block.subarray(kept, kept + at - end));
      this.#read(this.#files[word(1)], number, raw, at);
      end = at + pageBytes;
      expected = number + 1;
    }
    copyInto(raw, end, block.subarray(kept));
  }

  #lookUp(raw: Buffer, at: number): { file: number; block: number } | undefined {
    const found = this.#view?.find(raw, at) ?? -1;
    if (found < 0) return undefined;
    const file = this.#files.findLast(({ firstBlock }) => firstBlock <= found);
    if (!file || file.peerNumber < 0) return undefined;
    const block = found - file.firstBlock;
    const length = readSync(file.descriptor, this.#page, 0, pageBytes, block * pageBytes);
    const same = length === pageBytes && raw.compare(this.#page, 0, pageBytes, at, at + pageBytes) === 0;
    return same ? { file: file.peerNumber, block } : undefined;
  }

  #read(file: OpenFile | undefined, block: number, target: Buffer, at: number): void {
    if (!file || readSync(file.descriptor, target, at, pageBytes, block * pageBytes) !== pageBytes) {
      throw senseless();
    }
  }
}

/** The sets that are open in one thread, by number. */
export class PageSets {
  readonly #sets = new Map<number, PageSet>();

  open(task: OpenPagesTask): void {
    this.#sets.set(task.pageSet, new PageSet(task));
  }

  close(number: number): void {
    this.#sets.get(number)?.close();
    this.#sets.delete(number);
  }

  find(number: number | undefined): PageSet | undefined {
    return number === undefined ? undefined : this.#sets.get(number);
  }
}

function senseless(): Error {
  return corrupted("a block refers to pages that are not there");
}

/** What a coding thread does to one frame. */
import { xxh64 } from "@node-rs/xxhash";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault } from "#kernel/fault.ts";
import { placeBlock } from "../guest-memory.ts";
import type { PageSet } from "../pages/page-sets.ts";
import { pageBytes } from "../pages/scanner.ts";
import { pageOffsets, sortBlock, sortedHeadBytes } from "../pages/sorted-block.ts";
import { corrupted } from "../protocol.ts";
import { copyInto } from "../slabs.ts";
import { Codecs, Scratch } from "./codecs.ts";
import type { Coded, DecodeTask, EncodeTask, Encoding } from "./tasks.ts";

/** What a thread has for its tasks. */
export class Stages {
  readonly codecs = new Codecs();
  readonly #sorted = new Scratch();

  /** Sorting, checksum, page stage, codec. */
  encode(task: EncodeTask, pageSet: PageSet | undefined): Encoding {
    const target = asBuffer(task.target);
    const { block, pages, isInTarget } = this.#sort(task, pageSet);
    const checksum = xxh64(block);
    const staged = pageSet?.stage(block, pages);
    const input = staged?.block ?? block;
    const coded: Coded[] = [];
    let [best, codec]: [number, Codec] = [0, Codec.NONE];
    for (const method of task.trial ? [task.method, task.trial] : [task.method]) {
      const startedAt = performance.now();
      const output =
        method.codec === Codec.ZSTD_LONG
          ? target.subarray(0, this.codecs.long.compress(streamOf(task), method.level, input, target))
          : this.codecs.compress(method, input, best === 0 ? target : undefined);
      coded.push({ method, codedBytes: output?.length ?? input.length, ms: performance.now() - startedAt });
      // What a stream has seen, the other end has to see as well.
      if (!output || (best > 0 && (codec === Codec.ZSTD_LONG || output.length >= best))) continue;
      if (best > 0) copyInto(target, 0, output);
      best = output.length;
      codec = method.codec;
    }
    const isChanged = staged !== undefined || task.sort === true;
    if (best === 0 && isChanged) best = isInTarget ? block.length : copyInto(target, 0, input);
    return {
      ...{ targetBytes: best, rawBytes: block.length, codec, checksum, coded },
      staged: staged !== undefined,
      inImageBytes: (staged?.references ?? 0) * pageBytes,
      stagedBytes: input.length,
    };
  }

  /** Codec, page stage, checksum; what is sorted is put into its places. Throws MOVE_CORRUPTED. */
  decode(task: DecodeTask, pageSet: PageSet | undefined): Uint8Array | null {
    const { codec, rawBytes, memory } = task;
    const data = asBuffer(task.data);
    const isPlain = codec === Codec.NONE && !task.staged && !task.target;
    const block = isPlain ? data : task.target ? asBuffer(task.target) : this.#sorted.take(rawBytes);
    if (block.length !== rawBytes) throw corrupted("a block has another length than it says");
    if (codec === Codec.ZSTD_LONG) this.#decodeLong(task, data, block, pageSet);
    else if (task.staged) unstage(this.codecs.decompress(codec, data, rawBytes), block, pageSet);
    else if (!isPlain) this.codecs.decompressInto(block, codec, data);
    if (xxh64(block) !== task.checksum) throw corrupted("a checksum is wrong");
    // A copy: the block's memory is used again before this has been read.
    return memory ? Uint8Array.from(placeBlock(block, memory)) : null;
  }

  /** What goes out as it is sorted is sorted into its place at once. */
  #sort({ raw, target, runs = [], sort = false, method, trial }: EncodeTask, pageSet: PageSet | undefined) {
    if (!sort) return { block: asBuffer(raw), pages: pageOffsets(pageSet ? runs : []), isInTarget: false };
    const isInTarget = method.codec === Codec.NONE && !trial && !pageSet;
    const into = isInTarget ? asBuffer(target) : this.#sorted.take(raw.length + sortedHeadBytes);
    return { ...sortBlock(asBuffer(raw), runs, into), isInTarget };
  }

  #decodeLong(task: DecodeTask, data: Buffer, block: Buffer, pageSet: PageSet | undefined): void {
    const { codecs } = this;
    const output = task.staged ? codecs.scratch.take(block.length) : block;
    const bytes = codecs.long.decompress(streamOf(task), data, output);
    if (task.staged) unstage(output.subarray(0, bytes), block, pageSet);
    else if (bytes !== block.length) throw corrupted("a frame cannot be decompressed");
  }
}

function unstage(block: Buffer, target: Buffer, pageSet: PageSet | undefined): void {
  if (!pageSet) throw corrupted("a frame refers to files that were not offered");
  pageSet.unstage(block, target);
}

function streamOf({ stream }: { readonly stream?: number }): number {
  if (stream === undefined) throw new Fault("internal", "a block belongs to no stream");
  return stream;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

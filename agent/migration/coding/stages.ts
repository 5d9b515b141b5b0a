/** What a coding thread does to one frame. */
import { xxh64 } from "@node-rs/xxhash";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault } from "#kernel/fault.ts";
import type { PageSet } from "../pages/page-sets.ts";
import { pageBytes } from "../pages/scanner.ts";
import { corrupted } from "../protocol.ts";
import { copyInto } from "../slabs.ts";
import type { Codecs } from "./codecs.ts";
import type { Coded, DecodeTask, EncodeTask, Encoding } from "./tasks.ts";

/** Checksum, page stage, codec. */
export function encodeBlock(task: EncodeTask, codecs: Codecs, pageSet: PageSet | undefined): Encoding {
  const [raw, target] = [asBuffer(task.raw), asBuffer(task.target)];
  const checksum = xxh64(raw);
  const staged = task.pages && pageSet?.stage(raw, task.pages);
  const input = staged?.block ?? raw;
  const coded: Coded[] = [];
  let [best, codec]: [number, Codec] = [0, Codec.NONE];
  for (const method of task.trial ? [task.method, task.trial] : [task.method]) {
    const startedAt = performance.now();
    const output =
      method.codec === Codec.ZSTD_LONG
        ? target.subarray(0, codecs.long.compress(streamOf(task), method.level, input, target))
        : codecs.compress(method, input, best === 0 ? target : undefined);
    coded.push({ method, codedBytes: output?.length ?? input.length, ms: performance.now() - startedAt });
    // What a stream has seen, the other end has to see as well.
    if (!output || (best > 0 && (codec === Codec.ZSTD_LONG || output.length >= best))) continue;
    if (best > 0) copyInto(target, 0, output);
    best = output.length;
    codec = method.codec;
  }
  return {
    targetBytes: best === 0 && staged ? staged.block.copy(target) : best,
    staged: staged !== undefined,
    inImageBytes: (staged?.references ?? 0) * pageBytes,
    stagedBytes: input.length,
    ...{ codec, checksum, coded },
  };
}

/** Codec, page stage, checksum. Throws MOVE_CORRUPTED. */
export function decodeFrame(task: DecodeTask, codecs: Codecs, pageSet: PageSet | undefined): void {
  const [data, target] = [asBuffer(task.data), asBuffer(task.target)];
  const { codec } = task;
  if (codec === Codec.ZSTD_LONG) decodeLong(task, codecs, pageSet);
  else if (!task.staged) codecs.decompressInto(target, codec, data);
  else unstage(codecs.decompress(codec, data, target.length), target, pageSet);
  if (xxh64(target) !== task.checksum) throw corrupted("a checksum is wrong");
}

function decodeLong(task: DecodeTask, codecs: Codecs, pageSet: PageSet | undefined): void {
  const [data, target] = [asBuffer(task.data), asBuffer(task.target)];
  const output = task.staged ? codecs.scratch(target.length) : target;
  const bytes = codecs.long.decompress(streamOf(task), data, output);
  if (task.staged) unstage(output.subarray(0, bytes), target, pageSet);
  else if (bytes !== target.length) throw corrupted("a frame cannot be decompressed");
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

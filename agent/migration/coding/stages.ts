/** What a coding thread does to one frame. */
import { xxh64 } from "@node-rs/xxhash";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import type { PageSet } from "../pages/page-sets.ts";
import { pageBytes } from "../pages/scanner.ts";
import { corrupted } from "../protocol.ts";
import type { Codecs } from "./codecs.ts";
import type { Coded, DecodeTask, EncodeTask, Encoding } from "./tasks.ts";

/** Checksum, page stage, codec. */
export function encodeBlock(task: EncodeTask, codecs: Codecs, pageSet: PageSet | undefined): Encoding {
  const raw = join(task.pieces, task.rawBytes);
  const checksum = xxh64(raw);
  const staged = task.pages && pageSet?.stage(raw, task.pages);
  const input = staged?.block ?? raw;
  const coded: Coded[] = [];
  let best: Buffer | undefined;
  let codec: Codec = Codec.NONE;
  for (const method of task.trial ? [task.method, task.trial] : [task.method]) {
    const startedAt = performance.now();
    const output = codecs.compress(method, input);
    coded.push({
      method,
      codedBytes: output?.length ?? input.length,
      ms: performance.now() - startedAt,
    });
    if (!output || output.length >= (best?.length ?? Infinity)) continue;
    best = copyOf(output);
    codec = method.codec;
  }
  const parts = best ? [best] : staged ? [copyOf(staged.block)] : task.pieces;
  return {
    ...{ parts, codec, checksum, coded },
    staged: staged !== undefined,
    inImageBytes: (staged?.references ?? 0) * pageBytes,
    stagedBytes: input.length,
  };
}

/** Codec, page stage, checksum. Throws MOVE_CORRUPTED. */
export function decodeFrame(task: DecodeTask, codecs: Codecs, pageSet: PageSet | undefined): Uint8Array {
  const data = asBuffer(task.data);
  // A staged block is shorter than what it stands for; how much, only it knows.
  const block = codecs.decompress(task.codec, data, task.rawBytes, task.staged);
  if (task.staged && !pageSet) throw corrupted("a frame refers to files that were not offered");
  const raw = task.staged && pageSet ? pageSet.unstage(block, task.rawBytes) : block;
  if (raw.length !== task.rawBytes || xxh64(raw) !== task.checksum) throw corrupted("a checksum is wrong");
  return raw;
}

function join(pieces: readonly Uint8Array[], bytes: number): Buffer {
  const [first] = pieces;
  return pieces.length === 1 && first ? asBuffer(first) : Buffer.concat(pieces, bytes);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** In memory of its own, which can be handed over. */
function copyOf(bytes: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(bytes.length);
  bytes.copy(copy);
  return copy;
}

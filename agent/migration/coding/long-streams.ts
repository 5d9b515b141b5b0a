/**
 * zstd with a memory: a block refers to what the same stream had before, up to 16 MiB back. A guest's memory holds many
 * things more than once, further apart than a block is long. What is found again is not looked at closely, so this is
 * hardly slower than zstd over one block. Both ends must see all blocks of a stream, in order.
 */
import zstd from "zstd-napi/binding.js";
import { Fault } from "#kernel/fault.ts";
import { corrupted } from "../protocol.ts";

/** log2 of the bytes that are looked back on, which both ends hold in memory. */
const windowLog = 24;
/**
 * One place of so many (log2) is looked for further back, instead of one of 128 as zstd would: most of what is found
 * again is long, whole pages and more. It leaves 1 to 2 % more bytes, and saves a quarter of the CPU time.
 */
const hashRateLog = 9;
/** What a block may grow by that does not shrink: zstd's heads of its own blocks of 128 KiB, and of the stream. */
export const longHeadBytes = 256;

interface Compressor {
  readonly context: zstd.CCtx;
  readonly level: number;
}

export class LongStreams {
  readonly #compressors = new Map<number, Compressor>();
  readonly #decompressors = new Map<number, zstd.DCtx>();
  /** Of the stream that ended last: its memory is used again, where V8 would not hurry to give it back. */
  #spareCompressor: zstd.CCtx | undefined;
  #spareDecompressor: zstd.DCtx | undefined;

  /** How many bytes are in the target, which must be longer than the block by {@link longHeadBytes}. */
  compress(stream: number, level: number, block: Buffer, target: Buffer): number {
    const before = this.#compressors.get(stream);
    let endBytes = 0;
    // A frame of zstd keeps its level, so another begins, which knows nothing of what was before.
    if (before && before.level !== level) endBytes = this.#endFrame(stream, before, target);
    const { context } = this.#compressors.get(stream) ?? this.#openCompressor(stream, level);
    const [left, bytes] = context.compressStream2(target.subarray(endBytes), block, zstd.EndDirective.flush);
    if (left === 0) return endBytes + bytes;
    throw new Fault("internal", "a compressed block has no room", { reason: "MOVE_BLOCK_TOO_LONG" });
  }

  /** Gives how many bytes of the target were filled. Throws MOVE_CORRUPTED. */
  decompress(stream: number, data: Buffer, target: Buffer): number {
    const decompressor = this.#decompressors.get(stream) ?? this.#openDecompressor(stream);
    let [filled, taken] = [0, 0];
    try {
      // At the end of a frame it stops, whatever follows.
      for (let frames = 0; frames < 2 && taken < data.length; frames++) {
        const [, bytes, read] = decompressor.decompressStream(target.subarray(filled), data.subarray(taken));
        filled += bytes;
        taken += read;
      }
    } catch {
      // it says no more than that
    }
    if (taken < data.length) throw corrupted("a frame cannot be decompressed");
    return filled;
  }

  close(stream: number): void {
    const [compressor, decompressor] = [
      this.#compressors.get(stream)?.context,
      this.#decompressors.get(stream),
    ];
    compressor?.reset(zstd.ResetDirective.sessionAndParameters);
    decompressor?.reset(zstd.ResetDirective.sessionAndParameters);
    this.#spareCompressor = compressor ?? this.#spareCompressor;
    this.#spareDecompressor = decompressor ?? this.#spareDecompressor;
    this.#compressors.delete(stream);
    this.#decompressors.delete(stream);
  }

  #openCompressor(stream: number, level: number): Compressor {
    const context = this.#spareCompressor ?? new zstd.CCtx();
    this.#spareCompressor = undefined;
    context.setParameter(zstd.CParameter.compressionLevel, level);
    context.setParameter(zstd.CParameter.windowLog, windowLog);
    context.setParameter(zstd.CParameter.enableLongDistanceMatching, 1);
    context.setParameter(zstd.CParameter.ldmHashRateLog, hashRateLog);
    const compressor = { context, level };
    this.#compressors.set(stream, compressor);
    return compressor;
  }

  /** Ends the present frame; how many bytes that takes. */
  #endFrame(stream: number, { context }: Compressor, target: Buffer): number {
    const [, bytes] = context.compressStream2(target, Buffer.alloc(0), zstd.EndDirective.end);
    context.reset(zstd.ResetDirective.sessionAndParameters);
    this.#spareCompressor = context;
    this.#compressors.delete(stream);
    return bytes;
  }

  #openDecompressor(stream: number): zstd.DCtx {
    const decompressor = this.#spareDecompressor ?? new zstd.DCtx();
    this.#spareDecompressor = undefined;
    decompressor.setParameter(zstd.DParameter.windowLogMax, windowLog);
    this.#decompressors.set(stream, decompressor);
    return decompressor;
  }
}

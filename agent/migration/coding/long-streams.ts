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
/** What a block may grow by that does not shrink: zstd's heads of its own blocks of 128 KiB, and of the stream. */
export const longHeadBytes = 256;

export class LongStreams {
  readonly #compressors = new Map<number, zstd.CCtx>();
  readonly #decompressors = new Map<number, zstd.DCtx>();

  /** How many bytes are in the target, which must be longer than the block by {@link longHeadBytes}. */
  compress(stream: number, level: number, block: Buffer, target: Buffer): number {
    let compressor = this.#compressors.get(stream);
    if (!compressor) {
      compressor = new zstd.CCtx();
      compressor.setParameter(zstd.CParameter.compressionLevel, level);
      compressor.setParameter(zstd.CParameter.windowLog, windowLog);
      compressor.setParameter(zstd.CParameter.enableLongDistanceMatching, 1);
      this.#compressors.set(stream, compressor);
    }
    const [left, bytes] = compressor.compressStream2(target, block, zstd.EndDirective.flush);
    if (left === 0) return bytes;
    throw new Fault("internal", "a compressed block has no room", { reason: "MOVE_BLOCK_TOO_LONG" });
  }

  /** Gives how many bytes of the target were filled. Throws MOVE_CORRUPTED. */
  decompress(stream: number, data: Buffer, target: Buffer): number {
    let decompressor = this.#decompressors.get(stream);
    if (!decompressor) {
      decompressor = new zstd.DCtx();
      decompressor.setParameter(zstd.DParameter.windowLogMax, windowLog);
      this.#decompressors.set(stream, decompressor);
    }
    try {
      const [, bytes, taken] = decompressor.decompressStream(target, data);
      if (taken === data.length) return bytes;
    } catch {
      // it says no more than that
    }
    throw corrupted("a frame cannot be decompressed");
  }

  close(stream: number): void {
    this.#compressors.delete(stream);
    this.#decompressors.delete(stream);
  }
}

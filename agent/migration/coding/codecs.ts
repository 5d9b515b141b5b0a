/** The codecs of a frame. One object per thread: the compressors keep their memory between blocks. */
import lz4 from "lz4";
import zstd from "zstd-napi/binding.js";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { corrupted } from "../protocol.ts";

/** How to compress; what the receiver needs to know of it is the codec. */
export interface Method {
  readonly codec: Codec;
  /** Of zstd. */
  readonly level: number;
}

export class Codecs {
  readonly #compressor = new zstd.CCtx();
  readonly #decompressor = new zstd.DCtx();
  #scratch = Buffer.alloc(0);

  /** The compressed bytes, good until the next call; undefined when they are not clearly fewer. */
  compress({ codec, level }: Method, raw: Buffer): Buffer | undefined {
    if (codec === Codec.NONE) return undefined;
    const most = zstd.compressBound(raw.length);
    if (this.#scratch.length < most) this.#scratch = Buffer.allocUnsafeSlow(most);
    // Less than a sixteenth saved is not worth the receiver's work.
    const limit = raw.length - (raw.length >> 4);
    const length =
      codec === Codec.LZ4
        ? lz4.encodeBlock(raw, this.#scratch.subarray(0, limit))
        : this.#compressor.compress(this.#scratch, raw, level);
    return length > 0 && length <= limit ? this.#scratch.subarray(0, length) : undefined;
  }

  /**
   * Throws MOVE_CORRUPTED for anything that does not give as many bytes as expected, or fewer when `atMost`.
   */
  decompress(codec: Codec, data: Buffer, bytes: number, atMost: boolean): Buffer {
    if (codec === Codec.NONE) return data;
    const raw = Buffer.allocUnsafeSlow(bytes);
    const length = codec === Codec.LZ4 ? lz4.decodeBlock(data, raw) : this.#inflate(data, raw);
    if (length < 0 || (length !== bytes && !atMost)) throw corrupted("a frame cannot be decompressed");
    return raw.subarray(0, length);
  }

  #inflate(data: Buffer, raw: Buffer): number {
    try {
      return this.#decompressor.decompress(raw, data);
    } catch {
      return -1; // it says no more than that
    }
  }
}

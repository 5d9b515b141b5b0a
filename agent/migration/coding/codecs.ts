/** The codecs of a frame. One object per thread: the compressors keep their memory between blocks. */
import lz4 from "lz4";
import zstd from "zstd-napi/binding.js";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { corrupted } from "../protocol.ts";
import { copyInto } from "../slabs.ts";
import { LongStreams } from "./long-streams.ts";

/** How to compress; what the receiver needs to know of it is the codec. */
export interface Method {
  readonly codec: Codec;
  /** Of zstd. */
  readonly level: number;
}

/** Memory of a thread, used again and again. */
export class Scratch {
  #bytes = Buffer.alloc(0);

  /** Good until the next call. */
  take(bytes: number): Buffer {
    if (this.#bytes.length < bytes) this.#bytes = Buffer.allocUnsafeSlow(bytes);
    return this.#bytes.subarray(0, bytes);
  }
}

export class Codecs {
  readonly long = new LongStreams();
  /** Good until the next call of anything here. */
  readonly scratch = new Scratch();
  readonly #compressor = new zstd.CCtx();
  readonly #decompressor = new zstd.DCtx();

  /**
   * The compressed bytes; undefined when they are not clearly fewer.
   * @param target where they go, as long as `raw`; without it they are good until the next call
   */
  compress(method: Method, raw: Buffer, target?: Buffer): Buffer | undefined {
    if (method.codec === Codec.NONE) return undefined;
    // Less than a sixteenth saved is not worth the receiver's work.
    const limit = raw.length - (raw.length >> 4);
    const output = (target ?? this.scratch.take(limit)).subarray(0, limit);
    const length = this.#deflate(method, raw, output);
    return length > 0 ? output.subarray(0, length) : undefined;
  }

  /** Throws MOVE_CORRUPTED for anything that does not fill the target. */
  decompressInto(target: Buffer, codec: Codec, data: Buffer): void {
    const bytes = this.#inflate(target, codec, data);
    if (bytes !== target.length) throw corrupted("a frame cannot be decompressed");
  }

  /** At most so many bytes, good until the next call. Throws MOVE_CORRUPTED. */
  decompress(codec: Codec, data: Buffer, most: number): Buffer {
    if (codec === Codec.NONE) return data;
    const output = this.scratch.take(most);
    const bytes = this.#inflate(output, codec, data);
    if (bytes < 0) throw corrupted("a frame cannot be decompressed");
    return output.subarray(0, bytes);
  }

  /** 0 when it does not fit. */
  #deflate({ codec, level }: Method, raw: Buffer, output: Buffer): number {
    if (codec === Codec.LZ4) return lz4.encodeBlock(raw, output);
    try {
      return this.#compressor.compress(output, raw, level);
    } catch {
      return 0; // it says no more than that
    }
  }

  #inflate(target: Buffer, codec: Codec, data: Buffer): number {
    if (codec === Codec.NONE) return data.length === target.length ? copyInto(target, 0, data) : -1;
    if (codec === Codec.LZ4) return lz4.decodeBlock(data, target);
    try {
      return this.#decompressor.decompress(target, data);
    } catch {
      return -1; // it says no more than that
    }
  }
}

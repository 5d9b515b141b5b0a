/** The stages between a hypervisor's bytes and a frame, at either end; who runs them, and where, is not said here. */
import { Xxh64 } from "@node-rs/xxhash";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import type { Frame } from "./wire.ts";

/** Some of what a hypervisor wrote, in the pieces in which it was read. */
export interface RawBlock {
  readonly pieces: readonly Buffer[];
  readonly rawBytes: number;
  /** Where in it whole pages of memory begin; undefined when nobody looked. */
  readonly pages?: Uint32Array;
}

export interface EncodedBlock {
  readonly parts: readonly Uint8Array[];
  readonly codec: Codec;
  readonly staged: boolean;
  readonly checksum: bigint;
  /** Of the pages that became references. */
  readonly inImageBytes: number;
  /** What was chosen for it, whether it shrank or not; undefined for what is too little for a choice. */
  readonly chosen?: Codec;
}

/** Encodes the blocks of one channel. A block's pieces belong to the encoder from then on. */
export interface BlockEncoder {
  encode(block: RawBlock): Promise<EncodedBlock>;
}

/** Gives the hypervisor's bytes of a frame. Throws MOVE_CORRUPTED. The frame's data belongs to the decoder. */
export interface BlockDecoder {
  decode(frame: Frame): Promise<Uint8Array>;
}

/** A block as it is: for what is too small to be worth more. */
export function plainBlock(block: RawBlock): EncodedBlock {
  return {
    parts: block.pieces,
    codec: Codec.NONE,
    staged: false,
    checksum: checksumOf(block.pieces),
    inImageBytes: 0,
  };
}

export function checksumOf(pieces: readonly Uint8Array[]): bigint {
  const hash = new Xxh64();
  for (const piece of pieces) hash.update(piece);
  return hash.digest();
}

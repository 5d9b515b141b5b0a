/** The stages between a hypervisor's bytes and a frame, at either end; who runs them, and where, is not said here. */
import { xxh64 } from "@node-rs/xxhash";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import type { Slab } from "./slabs.ts";
import type { Frame } from "./wire.ts";

/** Some of what a hypervisor wrote. */
export interface RawBlock extends Slab {
  /** Where in it whole pages of memory begin; undefined when nobody looked. */
  readonly pages?: Uint32Array;
}

/** What goes over the network for a block. */
export interface EncodedBlock extends Slab {
  readonly codec: Codec;
  readonly staged: boolean;
  readonly checksum: bigint;
  /** Of the pages that became references. */
  readonly inImageBytes: number;
  /** What was chosen for it, whether it shrank or not; undefined for what is too little for a choice. */
  readonly chosen?: Codec;
}

/** Encodes the blocks of one call. A block belongs to the encoder from then on, and what it gives to the caller. */
export interface BlockEncoder extends Disposable {
  encode(block: RawBlock): Promise<EncodedBlock>;
  /** What it encoded has left. */
  sent(block: EncodedBlock, rawBytes: number): void;
}

/** Gives the hypervisor's bytes of a call's frames, whose messages belong to the decoder. Throws MOVE_CORRUPTED. */
export interface BlockDecoder extends Disposable {
  decode(frame: Frame, message: Slab): Promise<Slab>;
}

/** A block as it is: for what is too small to be worth more. */
export function plainBlock({ bytes, release }: RawBlock): EncodedBlock {
  return { bytes, release, codec: Codec.NONE, staged: false, checksum: xxh64(bytes), inImageBytes: 0 };
}

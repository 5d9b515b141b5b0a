/** The stages between a hypervisor's bytes and a frame, at either end; who runs them, and where, is not said here. */
import { xxh64 } from "@node-rs/xxhash";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import type { PageRun } from "./pages/scanner.ts";
import type { Slab } from "./slabs.ts";
import type { Frame } from "./wire.ts";

/** Some of what a hypervisor wrote. */
export interface RawBlock extends Slab {
  /** Where in it pages of memory are; undefined when nobody looked. */
  readonly runs?: readonly PageRun[];
  /** Some of these pages may have been in blocks before. */
  readonly again?: boolean;
}

/** What goes over the network for a block. */
export interface EncodedBlock extends Slab {
  /** What it is decoded to: the hypervisor's bytes, or these sorted. */
  readonly rawBytes: number;
  /** Its pages are for the destination to write; `alone`: when all before are written, and before any that follow. */
  readonly sorted?: "alone" | "together";
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

/**
 * Gives what is for the hypervisor of a call's frames, whose messages belong to the decoder. Throws MOVE_CORRUPTED. Once it is disposed
 * nothing is under way.
 */
export interface BlockDecoder extends AsyncDisposable {
  decode(frame: Frame, message: Slab): Promise<Slab>;
}

/** A block as it is: for what is too small to be worth more. */
export function plainBlock({ bytes, release }: RawBlock): EncodedBlock {
  const checksum = xxh64(bytes);
  return {
    bytes,
    release,
    rawBytes: bytes.length,
    codec: Codec.NONE,
    staged: false,
    checksum,
    inImageBytes: 0,
  };
}

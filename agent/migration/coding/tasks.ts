/** What the main thread asks of a coding thread. The bytes lie in memory that both share, and are not copied. */
import type { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import type { FaultCode } from "#kernel/fault.ts";
import type { Method } from "./codecs.ts";
import type { PlacedMemory } from "../guest-memory.ts";
import type { PageRun } from "../pages/scanner.ts";
import type { PageTable } from "../pages/table.ts";

export interface EncodeTask {
  readonly type: "encode";
  readonly raw: Uint8Array;
  /** Where the result goes; longer than `raw` by `spareBytes`. */
  readonly target: Uint8Array;
  readonly method: Method;
  readonly trial?: Method;
  readonly runs?: readonly PageRun[];
  /** The other host writes these pages itself. */
  readonly sort?: boolean;
  readonly pageSet?: number;
  /** Of a method that goes on where the block before has ended. */
  readonly stream?: number;
}

export interface Coded {
  readonly method: Method;
  readonly codedBytes: number;
  readonly ms: number;
}

export interface Encoding {
  /** So many bytes are in the target; 0: the block stays as it is. */
  readonly targetBytes: number;
  /** What it is decoded to. */
  readonly rawBytes: number;
  readonly codec: Codec;
  readonly staged: boolean;
  readonly checksum: bigint;
  readonly inImageBytes: number;
  /** Bytes that went into the codec. */
  readonly stagedBytes: number;
  /** What each method that was used made of them. */
  readonly coded: readonly Coded[];
}

export interface DecodeTask {
  readonly type: "decode";
  readonly data: Uint8Array;
  /** Where the block goes, exactly as long as it is to be; undefined when it is only taken apart. */
  readonly target?: Uint8Array;
  readonly rawBytes: number;
  /** It is sorted, and its pages go here. */
  readonly memory?: PlacedMemory;
  readonly codec: Codec;
  readonly staged: boolean;
  readonly checksum: bigint;
  readonly pageSet?: number;
  readonly stream?: number;
}

/** What a thread remembers of a stream is forgotten. */
export interface CloseStreamTask {
  readonly type: "close-stream";
  readonly stream: number;
}

/** A file whose 4 KiB blocks may stand for pages. */
export interface PageFile {
  readonly sha256: string;
  /** Of the bytes as a guest sees them. */
  readonly path: string;
  readonly bytes: number;
}

/** Makes a set of files known under a number, to all threads. */
export interface OpenPagesTask {
  readonly type: "open-pages";
  readonly pageSet: number;
  readonly files: readonly PageFile[];
  /** At the source: where to look pages up, and under which number the other host knows each file, -1 for none. */
  readonly table?: PageTable;
  readonly peerNumbers?: readonly number[];
}

export interface ClosePagesTask {
  readonly type: "close-pages";
  readonly pageSet: number;
}

export interface IndexTask {
  readonly type: "index";
  readonly files: readonly PageFile[];
}

export interface Results {
  readonly encode: Encoding;
  /** Of a sorted block: what is for the hypervisor. */
  readonly decode: Uint8Array | null;
  readonly "open-pages": null;
  readonly "close-pages": null;
  readonly "close-stream": null;
  readonly index: PageTable;
}

export type Task = EncodeTask | DecodeTask | CloseStreamTask | OpenPagesTask | ClosePagesTask | IndexTask;

export type Answer =
  | { readonly id: number; readonly result: Results[keyof Results] }
  | {
      readonly id: number;
      readonly fault: {
        readonly code: FaultCode;
        readonly reason: string;
        readonly message: string;
        readonly retryable: boolean;
        /** For operators; empty when there is none. */
        readonly cause: string;
      };
    };

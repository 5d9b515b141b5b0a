/** Frames coded by the threads: what the main thread hands over, and what is too little to be worth that. */
import { xxh64 } from "@node-rs/xxhash";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import {
  plainBlock,
  type BlockDecoder,
  type BlockEncoder,
  type EncodedBlock,
  type RawBlock,
} from "../block.ts";
import type { LinkMeter } from "../link-meter.ts";
import type { PlacedMemory } from "../guest-memory.ts";
import { pageBytes } from "../pages/scanner.ts";
import { countPages } from "../pages/sorted-block.ts";
import { StageYield } from "../pages/stage-yield.ts";
import { corrupted } from "../protocol.ts";
import { ownSlab, type Slab, type Slabs } from "../slabs.ts";
import type { Frame } from "../wire.ts";
import type { CodecChoice, Plan } from "./choice.ts";
import { longHeadBytes } from "./long-streams.ts";
import type { BlockCoder, CodingStream, CodingWorkers } from "./workers.ts";

/** A smaller block has come and gone before a thread would have looked at it. */
const worthCodingBytes = 8 * 1024;
const uncoded: Plan = { method: { codec: Codec.NONE, level: 0 } };

/** Whom the blocks of one call go to: any thread, or the one that remembers what came before. */
class Coders implements Disposable {
  readonly #workers: Pick<CodingWorkers, "run" | "openStream">;
  #stream: CodingStream | undefined;

  constructor(workers: Pick<CodingWorkers, "run" | "openStream">) {
    this.#workers = workers;
  }

  of(codec: Codec): BlockCoder {
    return codec === Codec.ZSTD_LONG ? (this.#stream ??= this.#workers.openStream()) : this.#workers;
  }

  [Symbol.dispose](): void {
    this.#stream?.[Symbol.dispose]();
  }
}

export class AdaptiveEncoder implements BlockEncoder {
  readonly #coders: Coders;
  readonly #slabs: Slabs;
  readonly #choice: CodecChoice;
  readonly #link: LinkMeter;
  readonly #onStageDropped: () => void;
  readonly #yield = new StageYield();
  readonly #sorts: boolean;
  #pageSet: number | undefined;

  constructor(deps: {
    readonly workers: Pick<CodingWorkers, "run" | "openStream">;
    readonly slabs: Slabs;
    readonly choice: CodecChoice;
    readonly link: LinkMeter;
    /** The destination writes the pages of these blocks itself. */
    readonly sorts?: boolean;
    readonly pageSet?: number | undefined;
    /** So few pages are in the files that this stream's others are not looked up. */
    readonly onStageDropped?: () => void;
  }) {
    this.#coders = new Coders(deps.workers);
    this.#slabs = deps.slabs;
    this.#choice = deps.choice;
    this.#link = deps.link;
    this.#sorts = deps.sorts ?? false;
    this.#pageSet = deps.pageSet;
    this.#onStageDropped = deps.onStageDropped ?? (() => undefined);
  }

  async encode(block: RawBlock): Promise<EncodedBlock> {
    const { bytes: raw, runs = [], again = false } = block;
    const sort = this.#sorts && runs.length > 0;
    const isLittle = raw.length < worthCodingBytes;
    if (isLittle && !sort) return plainBlock(block);
    const plan = isLittle ? uncoded : this.#choice.next(this.#link.rate);
    const pageSet = runs.length > 0 ? this.#pageSet : undefined;
    const chosen = plan.method.codec;
    if (chosen === Codec.NONE && !plan.trial && pageSet === undefined && !sort)
      return { ...plainBlock(block), chosen };
    const target = this.#slabs.take(raw.length + longHeadBytes);
    const task = { type: "encode", raw, target: target.bytes, ...plan, runs, sort } as const;
    const coding = await this.#coders.of(chosen).run({ ...task, ...(pageSet !== undefined && { pageSet }) });
    const { targetBytes, ...encoding } = coding;
    for (const { method, codedBytes, ms } of encoding.coded) {
      this.#choice.learn(method, encoding.stagedBytes, codedBytes, ms);
    }
    if (pageSet !== undefined) this.#judgeStage(countPages(runs), encoding.inImageBytes / pageBytes);
    const [kept, spare] = targetBytes > 0 ? [target, block] : [block, target];
    spare.release();
    const bytes = targetBytes > 0 ? target.bytes.subarray(0, targetBytes) : raw;
    const how = sort ? ({ sorted: again ? "alone" : "together" } as const) : {};
    return { ...encoding, ...how, bytes, release: kept.release, ...(!isLittle && { chosen }) };
  }

  sent({ chosen }: EncodedBlock, rawBytes: number): void {
    if (chosen !== undefined) this.#choice.sent(rawBytes, chosen);
  }

  [Symbol.dispose](): void {
    this.#coders[Symbol.dispose]();
  }

  #judgeStage(pages: number, found: number): void {
    if (this.#pageSet === undefined || this.#yield.pays(pages, found)) return;
    this.#pageSet = undefined;
    this.#onStageDropped();
  }
}

export class ThreadedDecoder implements BlockDecoder {
  readonly #coders: Coders;
  readonly #slabs: Slabs;
  readonly #pageSet: number | undefined;
  readonly #memory: PlacedMemory | undefined;
  /** Sorted frames that have not been written yet; and the last that is alone, which all that follow wait for. */
  readonly #placing = new Set<Promise<unknown>>();
  #alone: Promise<unknown> | undefined;

  constructor(deps: {
    readonly workers: Pick<CodingWorkers, "run" | "openStream">;
    readonly slabs: Slabs;
    readonly pageSet?: number | undefined;
    /** Where the pages of sorted frames go. */
    readonly memory?: PlacedMemory | undefined;
  }) {
    this.#coders = new Coders(deps.workers);
    this.#slabs = deps.slabs;
    this.#pageSet = deps.pageSet;
    this.#memory = deps.memory;
  }

  async decode(frame: Frame, message: Slab): Promise<Slab> {
    if (!frame.sorted) {
      await this.#alone; // a stream's frames are decoded in their order
      return await this.#decode(frame, message);
    }
    const before = frame.alone ? Promise.allSettled([...this.#placing]) : this.#alone;
    const placing = (before ?? Promise.resolve()).then(() => this.#place(frame, message));
    const done = placing.then(nothing, nothing);
    this.#placing.add(done);
    void done.then(() => this.#placing.delete(done));
    if (frame.alone) this.#alone = done;
    return await placing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#placing);
    this.#coders[Symbol.dispose]();
  }

  async #decode({ data, rawLength, codec, staged, checksum }: Frame, message: Slab): Promise<Slab> {
    if (codec === Codec.NONE && !staged) {
      if (data.length !== rawLength || xxh64(data) !== checksum) throw corrupted("a checksum is wrong");
      return { bytes: data, release: message.release };
    }
    const raw = this.#slabs.take(rawLength);
    const task = { type: "decode", data, target: raw.bytes, codec, staged, checksum } as const;
    await this.#coders.of(codec).run({ ...task, rawBytes: rawLength, ...this.#pages() });
    message.release();
    return raw;
  }

  async #place({ data, rawLength, codec, staged, checksum }: Frame, message: Slab): Promise<Slab> {
    const memory = this.#memory;
    if (!memory) throw corrupted("a frame has pages for a memory that was not offered");
    const task = { type: "decode", data, rawBytes: rawLength, memory, codec, staged, checksum } as const;
    const rest = await this.#coders.of(codec).run({ ...task, ...this.#pages() });
    message.release();
    return ownSlab(asBuffer(rest ?? new Uint8Array()));
  }

  #pages(): { readonly pageSet?: number } {
    return this.#pageSet === undefined ? {} : { pageSet: this.#pageSet };
  }
}

function nothing(): void {
  // how it ended is told elsewhere
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

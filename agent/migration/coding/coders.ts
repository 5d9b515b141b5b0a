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
import { pageBytes } from "../pages/scanner.ts";
import { StageYield } from "../pages/stage-yield.ts";
import { corrupted } from "../protocol.ts";
import type { Slab, Slabs } from "../slabs.ts";
import type { Frame } from "../wire.ts";
import type { CodecChoice } from "./choice.ts";
import { longHeadBytes } from "./long-streams.ts";
import type { BlockCoder, CodingStream, CodingWorkers } from "./workers.ts";

/** A smaller block has come and gone before a thread would have looked at it. */
const worthCodingBytes = 8 * 1024;

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
  #pageSet: number | undefined;

  constructor(deps: {
    readonly workers: Pick<CodingWorkers, "run" | "openStream">;
    readonly slabs: Slabs;
    readonly choice: CodecChoice;
    readonly link: LinkMeter;
    readonly pageSet?: number | undefined;
    /** So few pages are in the files that this stream's others are not looked up. */
    readonly onStageDropped?: () => void;
  }) {
    this.#coders = new Coders(deps.workers);
    this.#slabs = deps.slabs;
    this.#choice = deps.choice;
    this.#link = deps.link;
    this.#pageSet = deps.pageSet;
    this.#onStageDropped = deps.onStageDropped ?? (() => undefined);
  }

  async encode(block: RawBlock): Promise<EncodedBlock> {
    if (block.bytes.length < worthCodingBytes) return plainBlock(block);
    const plan = this.#choice.next(this.#link.rate);
    const staging =
      this.#pageSet !== undefined && block.pages !== undefined && block.pages.length > 0
        ? { pages: block.pages, pageSet: this.#pageSet }
        : undefined;
    const chosen = plan.method.codec;
    if (chosen === Codec.NONE && !plan.trial && !staging) return { ...plainBlock(block), chosen };
    const isLong = chosen === Codec.ZSTD_LONG;
    const target = this.#slabs.take(block.bytes.length + (isLong ? longHeadBytes : 0));
    const task = { type: "encode", raw: block.bytes, target: target.bytes, ...plan, ...staging } as const;
    const { targetBytes, ...encoding } = await this.#coders.of(chosen).run(task);
    for (const { method, codedBytes, ms } of encoding.coded) {
      this.#choice.learn(method, encoding.stagedBytes, codedBytes, ms);
    }
    if (staging) this.#judgeStage(staging.pages.length, encoding.inImageBytes / pageBytes);
    const [kept, spare] = targetBytes > 0 ? [target, block] : [block, target];
    spare.release();
    const bytes = targetBytes > 0 ? target.bytes.subarray(0, targetBytes) : block.bytes;
    return { ...encoding, bytes, release: kept.release, chosen };
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

  constructor(deps: {
    readonly workers: CodingWorkers;
    readonly slabs: Slabs;
    readonly pageSet?: number | undefined;
  }) {
    this.#coders = new Coders(deps.workers);
    this.#slabs = deps.slabs;
    this.#pageSet = deps.pageSet;
  }

  async decode({ data, rawLength, codec, staged, checksum }: Frame, message: Slab): Promise<Slab> {
    if (codec === Codec.NONE && !staged) {
      if (data.length !== rawLength || xxh64(data) !== checksum) throw corrupted("a checksum is wrong");
      return { bytes: data, release: message.release };
    }
    const raw = this.#slabs.take(rawLength);
    const pageSet = this.#pageSet === undefined ? {} : { pageSet: this.#pageSet };
    const task = { type: "decode", data, target: raw.bytes, codec, staged, checksum, ...pageSet } as const;
    await this.#coders.of(codec).run(task);
    message.release();
    return raw;
  }

  [Symbol.dispose](): void {
    this.#coders[Symbol.dispose]();
  }
}

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
import type { Frame } from "../wire.ts";
import type { CodecChoice } from "./choice.ts";
import type { CodingWorkers } from "./workers.ts";

/** A smaller block has come and gone before a thread would have looked at it. */
const worthCodingBytes = 8 * 1024;

export class AdaptiveEncoder implements BlockEncoder {
  readonly #workers: Pick<CodingWorkers, "run">;
  readonly #choice: CodecChoice;
  readonly #link: LinkMeter;
  readonly #onStageDropped: () => void;
  readonly #yield = new StageYield();
  #pageSet: number | undefined;

  constructor(deps: {
    readonly workers: Pick<CodingWorkers, "run">;
    readonly choice: CodecChoice;
    readonly link: LinkMeter;
    readonly pageSet?: number | undefined;
    /** So few pages are in the files that this stream's others are not looked up. */
    readonly onStageDropped?: () => void;
  }) {
    this.#workers = deps.workers;
    this.#choice = deps.choice;
    this.#link = deps.link;
    this.#pageSet = deps.pageSet;
    this.#onStageDropped = deps.onStageDropped ?? (() => undefined);
  }

  async encode(block: RawBlock): Promise<EncodedBlock> {
    if (block.rawBytes < worthCodingBytes) return plainBlock(block);
    const plan = this.#choice.next(this.#link.rate);
    const staging =
      this.#pageSet !== undefined && block.pages !== undefined && block.pages.length > 0
        ? { pages: block.pages, pageSet: this.#pageSet }
        : undefined;
    const chosen = plan.method.codec;
    if (chosen === Codec.NONE && !plan.trial && !staging) return { ...plainBlock(block), chosen };
    const { pieces, rawBytes } = block;
    const encoding = await this.#workers.run(
      { type: "encode", pieces, rawBytes, ...plan, ...staging },
      pieces.map(({ buffer }) => buffer as ArrayBuffer),
    );
    for (const { method, codedBytes, ms } of encoding.coded) {
      this.#choice.learn(method, encoding.stagedBytes, codedBytes, ms);
    }
    if (staging) this.#judgeStage(staging.pages.length, encoding.inImageBytes / pageBytes);
    return { ...encoding, chosen };
  }

  #judgeStage(pages: number, found: number): void {
    if (this.#pageSet === undefined || this.#yield.pays(pages, found)) return;
    this.#pageSet = undefined;
    this.#onStageDropped();
  }
}

export class ThreadedDecoder implements BlockDecoder {
  readonly #workers: CodingWorkers;
  readonly #pageSet: number | undefined;

  constructor(deps: { readonly workers: CodingWorkers; readonly pageSet?: number | undefined }) {
    this.#workers = deps.workers;
    this.#pageSet = deps.pageSet;
  }

  async decode({ data, rawLength: rawBytes, codec, staged, checksum }: Frame): Promise<Uint8Array> {
    if (codec === Codec.NONE && !staged) {
      if (data.length !== rawBytes || xxh64(data) !== checksum) throw corrupted("a checksum is wrong");
      return data;
    }
    const pageSet = this.#pageSet === undefined ? {} : { pageSet: this.#pageSet };
    const task = { type: "decode", rawBytes, codec, staged, checksum, ...pageSet } as const;
    const own = ownMemory(data);
    return await this.#workers.run({ ...task, data: own }, [own.buffer as ArrayBuffer]);
  }
}

/** The bytes, in memory that nothing else is in and that can be handed over. */
function ownMemory(data: Uint8Array): Uint8Array {
  const slackBytes = 4096; // the rest of the message that they came in
  if (data.buffer.byteLength - data.length < slackBytes) return data;
  const own = Buffer.allocUnsafeSlow(data.length);
  own.set(data);
  return own;
}

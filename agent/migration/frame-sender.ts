/**
 * One connection of the source's hypervisor, sent as frames on one call. Blocks are coded at the same time and sent in
 * order. What the hypervisor wrote goes out as soon as a turn of the event loop brings no more of it: the return path and
 * NBD wait for every answer, so nothing here ever waits for a timer. Memory is bounded by not reading the hypervisor.
 */
import type { ServerHttp2Stream } from "node:http2";
import type { Socket } from "node:net";
import { cancelled } from "#kernel/stall.ts";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { plainBlock, type BlockEncoder, type EncodedBlock, type RawBlock } from "./block.ts";
import type { LinkMeter } from "./link-meter.ts";
import type { PageScanner } from "./pages/scanner.ts";
import { cut, hypervisorGone, stalled, type MoveLimits } from "./protocol.ts";
import type { MoveCounters } from "./stats.ts";
import type { Throttle } from "./throttle.ts";
import { encodeFrameHead } from "./wire.ts";

export interface FrameSenderDeps {
  readonly channel: string;
  readonly stream: ServerHttp2Stream;
  readonly hypervisor: Socket;
  readonly encoder: BlockEncoder;
  /** Finds the pages in a memory stream; undefined: they are not looked for. */
  readonly scanner: PageScanner | undefined;
  readonly throttle: Throttle;
  readonly link: LinkMeter;
  readonly counters: MoveCounters;
  readonly limits: MoveLimits;
}

interface Job {
  readonly block: RawBlock;
  readonly zeroBytes: number;
  readonly encoded: Promise<EncodedBlock>;
}

/** Handed to the network at a time, so that progress shows on slow links too. */
const sliceBytes = 128 * 1024;
/** Handed to the network ahead of what it took; the rest of what is in flight waits here, where it can be measured. */
const unsentLimitBytes = 1024 * 1024;
const minBlockBytes = 32 * 1024;
/** Looks at progress so often within the time that counts as a stall; ticks, so that a suspended agent blames nobody. */
const stallTicks = 4;
const emptyBlock: RawBlock = { pieces: [], rawBytes: 0 };

export class FrameSender {
  readonly #deps: FrameSenderDeps;
  #pieces: Buffer[] = [];
  #gatheredBytes = 0;
  #seenBytes = 0;
  #flushing: NodeJS.Immediate | undefined;
  #heldBytes = 0;
  readonly #jobs: Job[] = [];
  #pumping = false;
  #sequence = 0;
  #unsentBytes = 0;
  #onSent: (() => void) | undefined;
  #ended = false;
  #progress = 0;
  #quietTicks = 0;
  #seenProgress = 0;
  readonly #stop = new AbortController();
  readonly #finished: Promise<void>;
  #finish!: () => void;
  #reject!: (thrown: unknown) => void;

  constructor(deps: FrameSenderDeps) {
    this.#deps = deps;
    this.#finished = new Promise((resolve, reject) => {
      this.#finish = resolve;
      this.#reject = reject;
    });
  }

  /** Ends after the frame `end` was sent; throws a Fault when it comes to nothing. Whoever calls ends the call. */
  async run(signal: AbortSignal): Promise<void> {
    const { hypervisor, stream, limits, link } = this.#deps;
    const gather = (piece: Buffer) => this.#gather(piece);
    const end = () => {
      this.#ended = true;
      this.#flush();
    };
    const gone = (cause?: unknown) => {
      if (!this.#ended) this.#fail(hypervisorGone(cause));
    };
    const lost = () => this.#fail(cut());
    const aborted = () => this.#fail(cancelled(signal));
    const ticking = setInterval(() => this.#tick(), limits.stallMs / stallTicks);
    hypervisor.on("data", gather).once("end", end).on("error", gone).once("close", gone);
    stream.once("close", lost);
    signal.addEventListener("abort", aborted, { once: true });
    try {
      if (signal.aborted) aborted();
      this.#enqueue(emptyBlock, 0);
      hypervisor.resume();
      await this.#finished;
    } finally {
      clearInterval(ticking);
      clearImmediate(this.#flushing);
      hypervisor.off("data", gather).off("end", end).off("close", gone);
      stream.off("close", lost);
      signal.removeEventListener("abort", aborted);
      link.drop(this.#unsentBytes);
      this.#unsentBytes = 0;
    }
  }

  #fail(thrown: unknown): void {
    this.#stop.abort(thrown);
    this.#reject(thrown);
  }

  #gather(piece: Buffer): void {
    const { limits, scanner, hypervisor } = this.#deps;
    scanner?.scan(piece);
    this.#pieces.push(piece);
    this.#gatheredBytes += piece.length;
    this.#heldBytes += piece.length;
    this.#seenBytes += piece.length;
    if (this.#gatheredBytes >= this.#blockBytes()) this.#flush();
    else this.#flushing ??= setImmediate(() => this.#flushWhenQuiet(this.#seenBytes));
    if (this.#heldBytes >= limits.inFlightBytes) hypervisor.pause();
  }

  #flushWhenQuiet(seenBytes: number): void {
    this.#flushing = undefined;
    if (seenBytes === this.#seenBytes) this.#flush();
    else if (this.#gatheredBytes > 0) {
      this.#flushing = setImmediate(() => this.#flushWhenQuiet(this.#seenBytes));
    }
  }

  #flush(): void {
    const { scanner } = this.#deps;
    const cutting = scanner?.cut(this.#pieces, this.#ended);
    const zeroBytes = cutting?.zeroBytes ?? 0;
    const rest = cutting?.rest;
    const pieces = cutting?.pieces ?? this.#pieces;
    const rawBytes = this.#gatheredBytes - (rest?.length ?? 0);
    this.#pieces = rest ? [rest] : [];
    this.#gatheredBytes -= rawBytes;
    const pages = cutting?.pages;
    if (rawBytes > 0) this.#enqueue({ pieces, rawBytes, ...(pages ? { pages } : {}) }, zeroBytes);
    if (this.#ended) this.#startPump();
  }

  #enqueue(block: RawBlock, zeroBytes: number): void {
    const { encoder } = this.#deps;
    const encoded = block.rawBytes === 0 ? Promise.resolve(plainBlock(block)) : encoder.encode(block);
    encoded.catch((thrown: unknown) => this.#fail(thrown)); // at once, and not only when its turn comes
    this.#jobs.push({ block, zeroBytes, encoded });
    this.#startPump();
  }

  #startPump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    this.#pump().catch((thrown: unknown) => this.#fail(thrown));
  }

  async #pump(): Promise<void> {
    const { throttle } = this.#deps;
    for (let job = this.#jobs.shift(); job; job = this.#jobs.shift()) {
      const encoded = await job.encoded;
      const bytes = encoded.parts.reduce((sum, part) => sum + part.length, 0);
      await throttle.wait(bytes, this.#stop.signal);
      await this.#room();
      this.#write(job, encoded, bytes);
    }
    this.#pumping = false;
    if (this.#ended) this.#writeEnd();
  }

  #write({ block, zeroBytes }: Job, encoded: EncodedBlock, bytes: number): void {
    const { channel, counters, hypervisor, limits } = this.#deps;
    const { codec, staged, checksum, parts, inImageBytes } = encoded;
    const { rawBytes } = block;
    const frame = { data: { length: bytes }, rawLength: rawBytes, codec, staged, checksum, end: false };
    const head = encodeFrameHead({ ...frame, sequence: ++this.#sequence });
    if (encoded.chosen !== undefined) counters.useCodec(channel, encoded.chosen);
    counters.count(channel, { rawBytes, wireBytes: bytes + head.length, zeroBytes, inImageBytes });
    this.#hand([head, ...parts], () => {
      this.#heldBytes -= rawBytes;
      if (this.#heldBytes < limits.inFlightBytes / 2 && hypervisor.isPaused()) hypervisor.resume();
    });
  }

  #writeEnd(): void {
    const frame = {
      data: { length: 0 },
      rawLength: 0,
      codec: Codec.NONE,
      staged: false,
      checksum: 0n,
      end: true,
    };
    this.#hand([encodeFrameHead({ ...frame, sequence: ++this.#sequence })], this.#finish);
  }

  /** Gives the parts of a frame to the network, in slices, and calls back when the last has left. */
  #hand(parts: readonly Uint8Array[], sent: () => void): void {
    const { stream, link } = this.#deps;
    const slices = parts.flatMap(slice);
    stream.cork();
    slices.forEach((each, index) => {
      this.#unsentBytes += each.length;
      link.begin(each.length);
      stream.write(each, (error) => {
        if (error || this.#unsentBytes === 0) return; // its connection has ended, which is told by `close`
        this.#unsentBytes -= each.length;
        this.#progress++;
        link.done(each.length);
        if (index === slices.length - 1) sent();
        if (this.#unsentBytes < unsentLimitBytes) this.#onSent?.();
      });
    });
    stream.uncork();
  }

  async #room(): Promise<void> {
    if (this.#unsentBytes < unsentLimitBytes) return;
    const stop = this.#stop.signal;
    await new Promise<void>((resolve, reject) => {
      const aborted = () => reject(cancelled(stop));
      if (stop.aborted) aborted();
      else stop.addEventListener("abort", aborted, { once: true });
      this.#onSent = () => {
        stop.removeEventListener("abort", aborted);
        resolve();
      };
    });
    this.#onSent = undefined;
  }

  /** About half a second of the link, so that frames on a slow one are no lump. */
  #blockBytes(): number {
    const { limits, throttle, link } = this.#deps;
    const most = throttle.blockBytes(limits.blockBytes);
    return Math.min(most, Math.max(minBlockBytes, (link.rate ?? Infinity) / 2));
  }

  #tick(): void {
    const moved = this.#progress !== this.#seenProgress;
    this.#seenProgress = this.#progress;
    this.#quietTicks = moved ? 0 : this.#quietTicks + 1;
    if (this.#unsentBytes > 0) {
      if (this.#quietTicks >= stallTicks) this.#fail(stalled(this.#deps.limits.stallMs));
    } else if (!moved && this.#jobs.length === 0 && !this.#ended) this.#enqueue(emptyBlock, 0);
  }
}

function slice(part: Uint8Array): Uint8Array[] {
  if (part.length <= sliceBytes) return [part];
  const slices: Uint8Array[] = [];
  for (let at = 0; at < part.length; at += sliceBytes) slices.push(part.subarray(at, at + sliceBytes));
  return slices;
}

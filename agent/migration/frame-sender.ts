/**
 * One connection of the source's hypervisor, sent as frames on one call. Blocks are coded at the same time and sent in
 * order. What the hypervisor wrote goes out when it fills a block, or as soon as nothing else is under way and a turn of
 * the event loop brings no more of it: the return path and NBD wait for every answer, so nothing here ever waits for a
 * timer. Memory is bounded by not reading the hypervisor.
 */
import type { ServerHttp2Stream } from "node:http2";
import type { Duplex } from "node:stream";
import { cancelled } from "#kernel/stall.ts";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { Backlog } from "./backlog.ts";
import { plainBlock, type BlockEncoder, type EncodedBlock, type RawBlock } from "./block.ts";
import { Gathering } from "./gathering.ts";
import { readInto } from "./hypervisor-reader.ts";
import type { LinkMeter } from "./link-meter.ts";
import type { PageScanner } from "./pages/scanner.ts";
import { corrupted, cut, hypervisorGone, stalled, type MoveLimits } from "./protocol.ts";
import { ownSlab, type Slabs } from "./slabs.ts";
import type { MoveCounters } from "./stats.ts";
import type { Throttle } from "./throttle.ts";
import { encodeFrameHead } from "./wire.ts";

export interface FrameSenderDeps {
  readonly channel: string;
  readonly stream: ServerHttp2Stream;
  /** As it was accepted: paused, and never read. {@link FrameSender.hypervisor} takes its place. */
  readonly accepted: Duplex;
  readonly encoder: BlockEncoder;
  /** Finds the pages in a memory stream; undefined: they are not looked for. */
  readonly scanner: PageScanner | undefined;
  readonly slabs: Slabs;
  readonly throttle: Throttle;
  readonly link: LinkMeter;
  readonly counters: MoveCounters;
  readonly limits: MoveLimits;
  /** The destination answers frames that ask whether they were taken. */
  readonly tellsTaken: boolean;
}

interface Job {
  readonly rawBytes: number;
  readonly zeroBytes: number;
  readonly encoded: Promise<EncodedBlock>;
}

/** Handed to the network ahead of what it took; the rest of what is in flight waits here, where it can be measured. */
const unsentLimitBytes = 1024 * 1024;
const minBlockBytes = 32 * 1024;
/** Looks at progress so often within the time that counts as a stall; ticks, so that a suspended agent blames nobody. */
const stallTicks = 4;
const emptyBlock: RawBlock = ownSlab(Buffer.alloc(0));

export class FrameSender {
  readonly #deps: FrameSenderDeps;
  /** To be written to; what it says is read here. */
  readonly hypervisor: Duplex;
  readonly #gathering: Gathering;
  readonly #backlog: Backlog;
  #seenBytes = 0;
  #flushing: NodeJS.Immediate | undefined;
  /** Read, and not yet with the network: bytes, and the blocks that they are in. */
  #heldBytes = 0;
  #heldBlocks = 0;
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
    this.#gathering = new Gathering(deps.slabs);
    this.#backlog = new Backlog(deps.limits.backlogBytes, deps.tellsTaken);
    this.hypervisor = readInto(deps.accepted, {
      room: () => this.#gathering.room(this.#blockBytes() - this.#gathering.bytes),
      onBytes: (count) => this.#gather(count),
    });
    this.#finished = new Promise((resolve, reject) => {
      this.#finish = resolve;
      this.#reject = reject;
    });
  }

  /** Ends after the frame `end` was sent; throws a Fault when it comes to nothing. Whoever calls ends the call. */
  async run(signal: AbortSignal): Promise<void> {
    const { hypervisor } = this;
    const { stream, limits, link } = this.#deps;
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
    hypervisor.once("end", end).on("error", gone).once("close", gone);
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
      hypervisor.off("end", end).off("close", gone);
      stream.off("close", lost);
      signal.removeEventListener("abort", aborted);
      link.drop(this.#unsentBytes);
      this.#unsentBytes = 0;
    }
  }

  /** What the hypervisor has said and the other one has not heard. */
  get backlogBytes(): number {
    return this.#backlog.bytes;
  }

  /** The quickest answer of the destination so far. */
  get answerMs(): number {
    return this.#backlog.answerMs;
  }

  limitBacklog(bytes: number | undefined): void {
    this.#backlog.limit(bytes);
    if (this.#backlog.isFull && !this.#ended) this.#enqueue(emptyBlock, 0); // asks how far it has got
    this.#readOn();
  }

  /** The frame of this sequence and all before it have been taken in. */
  taken(sequence: number): void {
    this.#backlog.taken(sequence);
    this.#progress++;
    this.#readOn();
  }

  /** The destination says nothing more. */
  endTelling(): void {
    this.#backlog.endTelling();
    this.#readOn();
  }

  #fail(thrown: unknown): void {
    this.#stop.abort(thrown);
    this.#reject(thrown);
  }

  #gather(count: number): void {
    const gathering = this.#gathering;
    const bytes = gathering.add(count);
    const { scanner } = this.#deps;
    scanner?.scan(bytes);
    if (scanner?.isLost === true)
      return this.#fail(corrupted("the hypervisor's memory stream is not understood"));
    this.#heldBytes += count;
    this.#seenBytes += count;
    this.#backlog.said(count);
    if (gathering.isFull || gathering.bytes >= this.#blockBytes()) this.#flush();
    else this.#flushWhenQuiet();
    if (this.#isFull(1)) this.hypervisor.pause();
  }

  /** A small block needs a slab for its coded form like a large one, so both are counted. */
  #isFull(share: number): boolean {
    const { inFlightBytes, blockBytes } = this.#deps.limits;
    const most = inFlightBytes * share;
    const isHeldFull = this.#heldBytes >= most || this.#heldBlocks >= (2 * most) / blockBytes;
    return isHeldFull || this.#backlog.isFull;
  }

  #readOn(): void {
    if (!this.#isFull(1 / 2) && this.hypervisor.isPaused()) this.hypervisor.resume();
  }

  /**
   * Sends what there is when a turn brings no more of it. While something is under way more is waited for: it would have
   * to wait behind that anyway, and a block costs as much work as a hundred kilobytes.
   */
  #flushWhenQuiet(): void {
    if (this.#heldBlocks > 0 || this.#gathering.bytes === 0) return;
    const seenBytes = this.#seenBytes;
    this.#flushing ??= setImmediate(() => {
      this.#flushing = undefined;
      if (seenBytes === this.#seenBytes && this.#heldBlocks === 0) this.#flush();
      else this.#flushWhenQuiet();
    });
  }

  #flush(): void {
    const gathering = this.#gathering;
    const all = { bytes: gathering.bytes, zeroBytes: 0 };
    const { bytes, zeroBytes, ...seen } = this.#deps.scanner?.cut(this.#ended) ?? all;
    if (bytes > 0) this.#enqueue({ ...gathering.cut(bytes), ...seen }, zeroBytes);
    if (this.#ended) this.#startPump();
  }

  #enqueue(block: RawBlock, zeroBytes: number): void {
    const { encoder } = this.#deps;
    const rawBytes = block.bytes.length;
    const encoded = rawBytes === 0 ? Promise.resolve(plainBlock(block)) : encoder.encode(block);
    encoded.catch((thrown: unknown) => this.#fail(thrown)); // at once, and not only when its turn comes
    this.#heldBlocks++;
    this.#jobs.push({ rawBytes, zeroBytes, encoded });
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
      await throttle.wait(encoded.bytes.length, this.#stop.signal);
      await this.#untilSent();
      this.#write(job, encoded);
    }
    this.#pumping = false;
    if (this.#ended) this.#writeEnd();
  }

  #write({ rawBytes, zeroBytes }: Job, encoded: EncodedBlock): void {
    const { channel, counters, encoder } = this.#deps;
    const { codec, staged, checksum, bytes: data, inImageBytes } = encoded;
    const order = { sorted: encoded.sorted !== undefined, alone: encoded.sorted === "alone" };
    const frame = { data, rawLength: encoded.rawBytes, codec, staged, checksum, end: false, ...order };
    const sequence = ++this.#sequence;
    const head = encodeFrameHead({ ...frame, sequence, askTaken: this.#backlog.sending(sequence, rawBytes) });
    if (encoded.chosen !== undefined) counters.useCodec(channel, encoded.chosen);
    counters.count(channel, { rawBytes, wireBytes: data.length + head.length, zeroBytes, inImageBytes });
    this.#hand(head, data, () => {
      encoded.release();
      encoder.sent(encoded, rawBytes);
      this.#heldBytes -= rawBytes;
      this.#heldBlocks--;
      this.#flushWhenQuiet();
      if (rawBytes > 0) this.#progress++;
      this.#readOn();
    });
  }

  #writeEnd(): void {
    const data = Buffer.alloc(0);
    const frame = { data, rawLength: 0, codec: Codec.NONE, checksum: 0n, end: true };
    const flags = { staged: false, sorted: false, alone: false, askTaken: false };
    const head = encodeFrameHead({ ...frame, ...flags, sequence: ++this.#sequence });
    this.#hand(head, data, this.#finish);
  }

  /** Gives a frame to the network, and calls back when it has left. */
  #hand(head: Buffer, data: Buffer, sent: () => void): void {
    const { stream, link } = this.#deps;
    const bytes = head.length + data.length;
    this.#unsentBytes += bytes;
    link.begin(bytes);
    const left = (error?: Error | null) => {
      if (error || this.#unsentBytes === 0) return; // its connection has ended, which is told by `close`
      this.#unsentBytes -= bytes;
      link.done(bytes);
      sent();
      if (this.#unsentBytes < unsentLimitBytes) this.#onSent?.();
    };
    stream.cork(); // for one write of both
    if (data.length > 0) stream.write(head);
    stream.write(data.length > 0 ? data : head, left);
    stream.uncork();
  }

  async #untilSent(): Promise<void> {
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
    const isWaiting = this.#unsentBytes > 0 || this.#backlog.isFull;
    this.#quietTicks = moved || !isWaiting ? 0 : this.#quietTicks + 1;
    if (this.#quietTicks >= stallTicks) this.#fail(stalled(this.#deps.limits.stallMs));
    else if (this.#unsentBytes === 0 && !moved && this.#jobs.length === 0 && !this.#ended)
      this.#enqueue(emptyBlock, 0);
  }
}

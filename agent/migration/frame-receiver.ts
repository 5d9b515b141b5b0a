/**
 * One call at the destination: frames become the hypervisor's bytes again, in order, and what it answers goes back.
 * Nothing that fails its checksum reaches the hypervisor. Memory is bounded by not reading the call.
 */
import type { Duplex } from "node:stream";
import type { ServiceError } from "@grpc/grpc-js";
import { isFault, toFault, type Fault } from "#kernel/fault.ts";
import { cancelled } from "#kernel/stall.ts";
import type { BlockDecoder } from "./block.ts";
import { callFault, type PullStream } from "./opener.ts";
import { corrupted, cut, hypervisorGone, maxRawBytes, stalled, type MoveLimits } from "./protocol.ts";
import type { MoveCounters } from "./stats.ts";
import type { Frame, Open, Request } from "./wire.ts";

export interface FrameReceiverDeps {
  readonly channel: string;
  readonly stream: PullStream["stream"];
  readonly connect: (signal: AbortSignal) => Promise<Duplex>;
  readonly decoder: BlockDecoder;
  readonly counters: MoveCounters;
  readonly limits: MoveLimits;
}

/** The source is never silent for longer than a quarter of the time that counts as a stall. */
const stallTicks = 4;
/** How long the word that the channel is given up may take. */
const goodbyeMs = 1000;

export class FrameReceiver {
  readonly #deps: FrameReceiverDeps;
  readonly #stop = new AbortController();
  readonly #finished: Promise<void>;
  #finish!: () => void;
  #reject!: (thrown: unknown) => void;
  #jobs: { readonly frame: Frame; readonly raw: Promise<Uint8Array> }[] = [];
  #pumping = false;
  #hypervisor: Duplex | undefined;
  #sequence = 0;
  #heldBytes = 0;
  /** The frame `end` is here; and all before it has reached the hypervisor. */
  #complete = false;
  #ended = false;
  #frames = 0;
  #seenFrames = 0;
  #quietTicks = 0;

  constructor(deps: FrameReceiverDeps) {
    this.#deps = deps;
    this.#finished = new Promise((resolve, reject) => {
      this.#finish = resolve;
      this.#reject = reject;
    });
  }

  /** The hypervisor has been connected: what has come since is not to be had again. */
  get begun(): boolean {
    return this.#sequence > 0;
  }

  /** Ends when all has reached the hypervisor after the frame `end`; throws a Fault when it comes to nothing. */
  async run(open: Open, signal: AbortSignal): Promise<void> {
    const { stream, limits } = this.#deps;
    const aborted = () => this.#fail(cancelled(signal));
    const ticking = setInterval(() => this.#tick(), limits.stallMs / stallTicks);
    stream.on("data", (frame: Frame) => this.#take(frame));
    // After the frame `end` everything is here, whatever becomes of the call.
    stream.on("error", (error: ServiceError) => {
      if (!this.#complete) this.#fail(callFault(error));
    });
    stream.once("end", () => {
      if (!this.#complete) this.#fail(cut());
    });
    signal.addEventListener("abort", aborted, { once: true });
    try {
      if (signal.aborted) aborted();
      else stream.write({ case: "open", value: open } satisfies Request);
      await this.#finished;
    } catch (thrown) {
      this.#hypervisor?.destroy();
      await this.#sayGoodbye(toFault(thrown));
      throw thrown;
    } finally {
      clearInterval(ticking);
      signal.removeEventListener("abort", aborted);
    }
  }

  #fail(thrown: unknown): void {
    this.#stop.abort(thrown);
    this.#reject(thrown);
  }

  #take(frame: Frame): void {
    const { decoder, limits, stream } = this.#deps;
    this.#frames++;
    if (this.#stop.signal.aborted) return;
    if (frame.sequence !== this.#sequence + 1) return this.#fail(corrupted("a frame is missing"));
    if (frame.rawLength > maxRawBytes) return this.#fail(corrupted("a frame is too long"));
    this.#sequence = frame.sequence;
    this.#complete = frame.end;
    this.#heldBytes += frame.rawLength;
    const raw = frame.rawLength > 0 ? decoder.decode(frame) : Promise.resolve(new Uint8Array());
    raw.catch((thrown: unknown) => this.#fail(thrown)); // at once, and not only when its turn comes
    this.#jobs.push({ frame, raw });
    if (this.#heldBytes >= limits.inFlightBytes) stream.pause();
    if (this.#pumping) return;
    this.#pumping = true;
    this.#pump().catch((thrown: unknown) => this.#fail(thrown));
  }

  async #pump(): Promise<void> {
    const { channel, counters, limits, stream } = this.#deps;
    this.#hypervisor ??= await this.#connect();
    const hypervisor = this.#hypervisor;
    for (let job = this.#jobs.shift(); job; job = this.#jobs.shift()) {
      const { frame } = job;
      const raw = await job.raw;
      this.#stop.signal.throwIfAborted();
      if (raw.length > 0 && !hypervisor.write(raw)) await this.#drained(hypervisor);
      counters.count(channel, { rawBytes: raw.length, wireBytes: frame.data.length });
      this.#heldBytes -= frame.rawLength;
      if (this.#heldBytes < limits.inFlightBytes / 2 && stream.isPaused()) stream.resume();
      if (frame.end) this.#end(hypervisor);
    }
    this.#pumping = false;
  }

  async #connect(): Promise<Duplex> {
    const { connect, stream } = this.#deps;
    const hypervisor = await connect(this.#stop.signal);
    const gone = (cause?: unknown) => {
      if (!this.#ended) this.#fail(hypervisorGone(cause));
    };
    hypervisor.on("error", gone);
    hypervisor.once("close", gone);
    hypervisor.on("data", (bytes: Buffer) => {
      if (!stream.write({ case: "data", value: bytes } satisfies Request)) hypervisor.pause();
    });
    stream.on("drain", () => hypervisor.resume());
    hypervisor.once("end", () => {
      if (!this.#ended) stream.end();
    });
    return hypervisor;
  }

  #drained(hypervisor: Duplex): Promise<void> {
    const stop = this.#stop.signal;
    return new Promise((resolve, reject) => {
      const aborted = () => reject(cancelled(stop));
      stop.addEventListener("abort", aborted, { once: true });
      hypervisor.once("drain", () => {
        stop.removeEventListener("abort", aborted);
        resolve();
      });
    });
  }

  /**
   * The hypervisor has all. Its own last words have nobody to go to any more, but they are read: a unix socket that
   * is closed with unread data takes away what the other end has yet to read.
   */
  #end(hypervisor: Duplex): void {
    hypervisor.end(() => {
      this.#ended = true;
      this.#finish();
    });
  }

  /** Tells the source why, unless it told us. */
  async #sayGoodbye(fault: Fault): Promise<void> {
    const { stream } = this.#deps;
    if (isFault(fault, "denied") || stream.destroyed || stream.writableEnded) return;
    const { reason, message } = fault;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, goodbyeMs);
      const over = () => {
        clearTimeout(timer);
        resolve();
      };
      stream.once("close", over).once("error", over).once("status", over);
      stream.write({ case: "abort", value: { reason, message } } satisfies Request);
      stream.end();
      stream.resume();
    });
  }

  #tick(): void {
    const silent = this.#frames === this.#seenFrames;
    this.#seenFrames = this.#frames;
    // Before the first frame the source may have nothing to send; while we do not read, it cannot be heard.
    if (!silent || !this.begun || this.#deps.stream.isPaused()) this.#quietTicks = 0;
    else this.#quietTicks++;
    if (this.#quietTicks > stallTicks) this.#fail(stalled(this.#deps.limits.stallMs));
  }
}

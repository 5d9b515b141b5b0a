/**
 * One call at the destination: frames become the hypervisor's bytes again, in order, and what it answers goes back.
 * Nothing that fails its checksum reaches the hypervisor. Memory is bounded by not reading the call.
 */
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { isFault, toFault, type Fault } from "#kernel/fault.ts";
import { cancelled } from "#kernel/stall.ts";
import type { BlockDecoder } from "./block.ts";
import { corrupted, cut, hypervisorGone, maxRawBytes, stalled, type MoveLimits } from "./protocol.ts";
import type { PullRequest } from "./pull-request.ts";
import { ownSlab, type Slab, type Slabs } from "./slabs.ts";
import type { MoveCounters } from "./stats.ts";
import type { Frame, Open } from "./wire.ts";

export interface FrameReceiverDeps {
  readonly channel: string;
  readonly call: PullRequest;
  readonly connect: (signal: AbortSignal) => Promise<Duplex>;
  readonly decoder: BlockDecoder;
  readonly slabs: Slabs;
  readonly counters: MoveCounters;
  readonly limits: MoveLimits;
}

/** The source is never silent for longer than a quarter of the time that counts as a stall. */
const stallTicks = 4;
const nothing = ownSlab(Buffer.alloc(0));

export class FrameReceiver {
  readonly #deps: FrameReceiverDeps;
  readonly #stop = new AbortController();
  readonly #finished: Promise<void>;
  #finish!: () => void;
  #reject!: (thrown: unknown) => void;
  #jobs: { readonly frame: Frame; readonly raw: Promise<Slab> }[] = [];
  #pumping = false;
  #connecting: Promise<Duplex> | undefined;
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
    const { call, limits, slabs } = this.#deps;
    const aborted = () => this.#fail(cancelled(signal));
    const ticking = setInterval(() => this.#tick(), limits.stallMs / stallTicks);
    const answers = {
      onFrame: (frame: Frame, message: Slab) => this.#take(frame, message),
      onDrain: () => void this.#hypervisor?.resume(),
      onEnd: (fault: Fault | undefined) => {
        // After the frame `end` everything is here, whatever becomes of the call.
        if (!this.#complete) this.#fail(fault ?? cut());
      },
    };
    call.listen(answers, slabs);
    signal.addEventListener("abort", aborted, { once: true });
    try {
      if (signal.aborted) aborted();
      else call.send({ case: "open", value: open });
      await this.#finished;
    } catch (thrown) {
      this.#hypervisor?.destroy();
      const fault = toFault(thrown);
      if (!isFault(fault, "denied")) await call.abandon(fault);
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

  #take(frame: Frame, message: Slab): void {
    const { decoder, limits, call } = this.#deps;
    this.#frames++;
    if (this.#stop.signal.aborted) return;
    if (frame.sequence !== this.#sequence + 1) return this.#fail(corrupted("a frame is missing"));
    if (frame.rawLength > maxRawBytes) return this.#fail(corrupted("a frame is too long"));
    this.#sequence = frame.sequence;
    this.#complete = frame.end;
    this.#heldBytes += frame.rawLength;
    // A hypervisor that has not been connected can be sent to once more, and then its memory has to be empty.
    const connecting = (this.#connecting ??= this.#connect());
    const raw = connecting.then(() => (frame.rawLength > 0 ? decoder.decode(frame, message) : nothing));
    raw.catch((thrown: unknown) => this.#fail(thrown)); // at once, and not only when its turn comes
    this.#jobs.push({ frame, raw });
    if (this.#heldBytes >= limits.inFlightBytes) call.pause();
    if (this.#pumping) return;
    this.#pumping = true;
    this.#pump(connecting).catch((thrown: unknown) => this.#fail(thrown));
  }

  async #pump(connecting: Promise<Duplex>): Promise<void> {
    const { channel, counters } = this.#deps;
    const hypervisor = (this.#hypervisor = await connecting);
    for (let job = this.#jobs.shift(); job; job = this.#jobs.shift()) {
      const { frame } = job;
      const raw = await job.raw;
      this.#stop.signal.throwIfAborted();
      counters.count(channel, { rawBytes: frame.rawLength, wireBytes: frame.data.length });
      if (raw.bytes.length === 0) this.#taken(job.frame, raw);
      else if (!this.#write(hypervisor, job.frame, raw)) await this.#drained(hypervisor);
      if (frame.end) this.#end(hypervisor);
    }
    this.#pumping = false;
  }

  /** Only a socket is done with what it was given when it says so. */
  #write(hypervisor: Duplex, frame: Frame, raw: Slab): boolean {
    const bytes = hypervisor instanceof Socket ? raw.bytes : Buffer.from(raw.bytes);
    return hypervisor.write(bytes, (error) => {
      if (!error) this.#taken(frame, raw); // an error is told by the connection
    });
  }

  #taken({ rawLength, sequence, askTaken }: Frame, raw: Slab): void {
    const { limits, call } = this.#deps;
    raw.release();
    if (askTaken) call.send({ case: "taken", value: sequence });
    this.#heldBytes -= rawLength;
    if (this.#heldBytes < limits.inFlightBytes / 2 && call.isPaused) call.resume();
  }

  async #connect(): Promise<Duplex> {
    const { connect, call } = this.#deps;
    const stop = this.#stop.signal;
    const hypervisor = await connect(stop);
    if (stop.aborted) {
      // Left open, it would be the connection that the hypervisor waits on while the next call is refused.
      hypervisor.destroy();
      throw cancelled(stop);
    }
    const gone = (cause?: unknown) => {
      if (!this.#ended) this.#fail(hypervisorGone(cause));
    };
    hypervisor.on("error", gone);
    hypervisor.once("close", gone);
    hypervisor.on("data", (bytes: Buffer) => {
      if (!call.send({ case: "data", value: bytes })) hypervisor.pause();
    });
    hypervisor.once("end", () => {
      if (!this.#ended) call.end();
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

  #tick(): void {
    const silent = this.#frames === this.#seenFrames;
    this.#seenFrames = this.#frames;
    // Before the first frame the source may have nothing to send; while we do not read, it cannot be heard.
    if (!silent || !this.begun || this.#deps.call.isPaused) this.#quietTicks = 0;
    else this.#quietTicks++;
    if (this.#quietTicks > stallTicks) this.#fail(stalled(this.#deps.limits.stallMs));
  }
}

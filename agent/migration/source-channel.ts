/** One channel of a move at its source: brings together the hypervisor's newest connection and the newest call. */
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { Fault, toFault } from "#kernel/fault.ts";
import type { HeldSocket, MemoryBacklog } from "../drivers/driver.ts";
import type { Logger } from "#kernel/log.ts";
import { FrameSender, type FrameSenderDeps } from "./frame-sender.ts";
import { HypervisorListener } from "./hypervisor-listener.ts";
import type { PullCall } from "./pull-call.ts";
import type { Open } from "./wire.ts";

export type Coding = Pick<FrameSenderDeps, "encoder" | "scanner">;

export interface SourceChannelDeps extends Omit<
  FrameSenderDeps,
  "stream" | "accepted" | "encoder" | "scanner" | "tellsTaken"
> {
  readonly socketPath: string;
  /** How to code one connection for a destination; the scanner is new for each, as is the stream. */
  readonly coding: (open: Open, signal: AbortSignal) => Promise<Coding>;
  readonly onFault: (fault: Fault) => void;
  readonly log: Logger;
}

export class SourceChannel implements AsyncDisposable {
  /** Whichever connection carries the channel. */
  readonly backlog: MemoryBacklog;
  readonly #deps: SourceChannelDeps;
  #listener!: HypervisorListener;
  #waiting: { readonly call: PullCall; readonly open: Open } | undefined;
  #paired: { readonly stop: AbortController; readonly done: Promise<void> } | undefined;
  #sender: FrameSender | undefined;
  #backlogLimit: number | undefined;
  #held = false;
  #disposed = false;
  #ended = false;

  private constructor(deps: SourceChannelDeps) {
    this.#deps = deps;
    const sender = () => this.#sender;
    this.backlog = {
      get bytes() {
        return sender()?.backlogBytes ?? 0;
      },
      get answerMs() {
        return sender()?.answerMs ?? 0;
      },
      limit: (bytes) => {
        this.#backlogLimit = bytes;
        this.#sender?.limitBacklog(bytes);
      },
    };
  }

  /** Listens for the hypervisor. */
  static async open(deps: SourceChannelDeps): Promise<SourceChannel> {
    const channel = new SourceChannel(deps);
    channel.#listener = await HypervisorListener.listen(deps.socketPath, () => {
      channel.#paired?.stop.abort(superseded("the hypervisor has connected anew"));
      channel.#pair();
    });
    return channel;
  }

  /** The destination is there to take what a hypervisor that connects says. */
  get isPulled(): boolean {
    return this.#waiting !== undefined || this.#paired !== undefined;
  }

  get socketPath(): string {
    return this.#listener.path;
  }

  /** The hypervisor has closed its last connection in order, and the destination knows. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Whoever connects and pulls waits until it is released. */
  hold(): HeldSocket {
    this.#held = true;
    const release = () => {
      this.#held = false;
      this.#pair();
      return this.#paired !== undefined || this.#listener.waiting;
    };
    const close = () => {
      this.#held = false;
      this.#listener.take()?.destroy();
    };
    return { path: this.socketPath, release, close };
  }

  /** Takes a call whose right to this channel has been checked. */
  pull(call: PullCall, open: Open): void {
    this.#waiting?.call.finish(superseded("the channel was pulled anew"));
    this.#paired?.stop.abort(superseded("the channel was pulled anew"));
    this.#waiting = { call, open };
    call.listen({
      onData: () => true, // nobody answers yet
      onEnd: () => undefined,
      onFault: (fault) => {
        if (this.#waiting?.call === call) this.#waiting = undefined;
        call.finish(fault);
      },
    });
    this.#pair();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    const over = new Fault("conflict", "the move has ended at the other host", { reason: "MOVE_ENDED" });
    this.#waiting?.call.finish(over);
    this.#paired?.stop.abort(over);
    await this.#paired?.done;
    await this.#listener[Symbol.asyncDispose]();
  }

  #pair(): void {
    if (this.#disposed || this.#held || this.#paired || !this.#waiting || !this.#listener.waiting) return;
    const { call, open } = this.#waiting;
    if (!call.alive) return;
    const accepted = this.#listener.take();
    if (!accepted) return;
    this.#waiting = undefined;
    this.#ended = false;
    const stop = new AbortController();
    const done = this.#carry(call, open, accepted, stop).finally(() => {
      this.#paired = undefined;
      this.#pair();
    });
    this.#paired = { stop, done };
  }

  async #carry(call: PullCall, open: Open, accepted: Socket, stop: AbortController): Promise<void> {
    const { channel, log, onFault } = this.#deps;
    const onError = (error: Error) => log.debug("move.hypervisor-socket", { channel, error });
    const onAbort = (fault: Fault) => stop.abort(fault);
    accepted.on("error", onError);
    call.listen({ onData: () => true, onEnd: () => undefined, onFault: onAbort }); // nobody answers yet
    log.info("move.channel-paired", { channel });
    let hypervisor: Duplex = accepted;
    let failure: Fault | undefined;
    let coding: Coding | undefined;
    try {
      coding = await this.#deps.coding(open, stop.signal);
      const { tellsTaken } = open;
      const sender = new FrameSender({ ...this.#deps, ...coding, stream: call.stream, accepted, tellsTaken });
      this.#sender = sender;
      sender.limitBacklog(this.#backlogLimit);
      hypervisor = sender.hypervisor;
      hypervisor.on("error", onError).on("drain", () => call.resume());
      call.listen({
        onData: (bytes) => sender.hypervisor.write(bytes),
        onTaken: (sequence) => sender.taken(sequence),
        onEnd: () => {
          sender.endTelling();
          sender.hypervisor.end();
        },
        onFault: onAbort,
      });
      await sender.run(stop.signal);
      this.#ended = true;
      log.info("move.channel-ended", { channel });
    } catch (thrown) {
      failure = toFault(thrown);
      log.warn("move.channel-failed", { channel, fault: failure });
      onFault(failure);
    } finally {
      this.#sender = undefined;
      coding?.encoder[Symbol.dispose]();
      // A hypervisor that can connect anew learns by this that it has to.
      hypervisor.destroy();
      call.finish(failure);
    }
  }
}

function superseded(message: string): Fault {
  return new Fault("unavailable", message, { reason: "MOVE_SUPERSEDED" });
}

/**
 * Sends a fake machine to another host: its disk, its memory in rounds while the guest goes on writing, and with the
 * guest stopped what is left. It lives as long as the move: the passes that drive it come and go.
 */
import { Fault, isFault } from "#kernel/fault.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import { cancelled } from "#kernel/stall.ts";
import { MoveType, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import type { MachinePlan, SendProgress } from "../driver.ts";
import type { Gate } from "./gate.ts";
import type { FakeKnobs } from "./knobs.ts";
import type { FakeMachine } from "./machine.ts";
import { batchPages, lost, OutgoingChannel } from "./outgoing.ts";
import { pageBytes } from "./page-file.ts";

export interface SendingDeps {
  readonly machine: FakeMachine;
  readonly gate: Gate;
  readonly knobs: () => FakeKnobs;
  readonly now: () => number;
}

type Move = NonNullable<MachinePlan["spec"]["move"]>;
type SocketOf = (channel: string) => string;

/** What would take so long to send counts as nearly there. */
const nearMs = 2000;
const pollMs = 20;
const tellMs = 500;
/** So many rounds that leave no less than the one before: it will not get there by itself. */
const stallRounds = 5;
const reconnectLimitMs = 30_000;
/** Pages that follow a guest go in small numbers: it may be waiting for one. */
const followingBatch = 8;

export class Sending {
  readonly migrationId: string;
  readonly #deps: SendingDeps;
  /** Aborts when there is no way on: its memory was cut off, or the machine is no more. */
  readonly #over = new AbortController();
  readonly #disk: OutgoingChannel;
  readonly #memory: OutgoingChannel | undefined;
  #rounds = 0;
  #stalled = 0;
  #leastLeft = Infinity;
  #pagesPerSecond = 0;
  #dirtyPerSecond = 0;
  #toldAt = 0;
  #stoppedAtMs: number | undefined;
  #stoppedMs: number | undefined;
  /** What is left of its memory is to follow the guest. */
  #follows = false;
  #stalls = 0;
  #recoveries = 0;
  #followedPages = 0;

  constructor(move: Move, deps: SendingDeps) {
    const { guest } = deps.machine;
    this.migrationId = move.migrationId;
    this.#deps = deps;
    if (move.type !== MoveType.COLD) guest.boot();
    this.#disk = new OutgoingChannel(guest.disk, move.baseline);
    this.#memory =
      move.type === MoveType.COLD
        ? undefined
        : new OutgoingChannel(guest.memory, "", () => this.#loseMemory());
  }

  /** As `LiveMigration.send` says; each call carries on from where the last one was left. */
  async *run(move: Move, socketOf: SocketOf, until: AbortSignal): AsyncGenerator<SendProgress> {
    const { gate, machine } = this.#deps;
    const signal = AbortSignal.any([until, this.#over.signal]);
    if (machine.hold?.stage === "offered") {
      yield* this.#follow(move, socketOf, signal);
      return;
    }
    this.#stalled = 0;
    this.#leastLeft = Infinity;
    if (machine.hold === undefined) {
      yield this.#tell("disk-copy");
      await gate.enter("disk-copy", signal);
      yield* this.#copy("disk-copy", [this.#disk], socketOf, signal);
      gate.leave("disk-copy");
      yield this.#tell("pre-copy");
      await gate.enter("pre-copy", signal);
      yield* this.#converge(move, socketOf, signal);
      gate.leave("pre-copy");
    }
    await this.#stop();
    yield this.#tell("switchover");
    await gate.enter("switchover", signal);
    if (this.#follows) {
      await this.#flush(this.#disk, socketOf, signal);
      machine.setHold({ migrationId: this.migrationId, stage: "offered", memoryBegun: true });
      yield* this.#follow(move, socketOf, signal);
      return;
    }
    for (const channel of this.#channels) await this.#flush(channel, socketOf, signal);
    machine.setHold({ migrationId: this.migrationId, stage: "handed-over", memoryBegun: false });
    this.close();
    yield this.#tell("handed-over");
  }

  /** The move is over; whoever still works on it is told so. */
  close(): void {
    // What was offered goes on as soon as somebody takes it up again.
    this.#over.abort(this.#deps.machine.hold?.stage === "offered" ? lost() : ended());
    for (const channel of this.#channels) channel.close();
  }

  get #channels(): readonly OutgoingChannel[] {
    return this.#memory ? [this.#disk, this.#memory] : [this.#disk];
  }

  /** Rounds until little is left and the guest may be stopped. */
  async *#converge(move: Move, socketOf: SocketOf, signal: AbortSignal): AsyncGenerator<SendProgress> {
    let near = false;
    for (;;) {
      yield* this.#copy(near ? "converged" : "pre-copy", this.#channels, socketOf, signal);
      const isNear = this.#follows || this.#leftMs() <= nearMs;
      if (near !== isNear) yield this.#tell(isNear ? "converged" : "pre-copy");
      near = isNear;
      const isShort = this.#follows || this.#leftMs() <= (move.maxDowntimeMs || nearMs);
      const mayStop = move.switchOver && isShort;
      if (mayStop) return;
      const isWaiting = near && !move.switchOver;
      if (!isWaiting && this.#stalled >= stallRounds && this.#forced(move)) return;
      await sleep(pollMs, signal);
    }
  }

  /** One round: the pages that are dirty now. */
  async *#copy(
    phase: SendProgress["phase"],
    channels: readonly OutgoingChannel[],
    socketOf: SocketOf,
    signal: AbortSignal,
  ): AsyncGenerator<SendProgress> {
    const startedAt = performance.now();
    let sent = 0;
    for (const channel of channels) {
      const round = channel.pages.dirtyPages;
      for (let at = 0; at < round.length; at += batchPages) {
        const batch = round.slice(at, at + batchPages);
        await this.#send(channel, batch, socketOf, signal);
        sent += batch.length;
        if (performance.now() - this.#toldAt >= tellMs) yield this.#tell(phase);
      }
    }
    if (sent === 0) return;
    this.#rounds++;
    const seconds = Math.max(performance.now() - startedAt, 1) / 1000;
    const left = this.#dirtyPages();
    this.#pagesPerSecond = sent / seconds;
    this.#dirtyPerSecond = left / seconds;
    this.#stalled = left < this.#leastLeft ? 0 : this.#stalled + 1;
    this.#leastLeft = Math.min(left, this.#leastLeft);
  }

  /** A disk's connection may be lost and come back; memory that was cut off cannot go on. */
  async #send(
    channel: OutgoingChannel,
    batch: readonly number[],
    socketOf: SocketOf,
    signal: AbortSignal,
  ): Promise<void> {
    const name = channel === this.#disk ? "disk:root" : "memory";
    const giveUpAt = performance.now() + reconnectLimitMs;
    for (;;) {
      try {
        if (!channel.isConnected) await channel.connect(socketOf(name), signal);
        await channel.send(batch, signal);
        break;
      } catch (thrown) {
        if (signal.aborted) throw cancelled(signal);
        if (name === "memory" || performance.now() > giveUpAt) throw thrown;
        await sleep(pollMs, signal);
      }
    }
    await this.#keepPace(batch.length, signal);
  }

  async #keepPace(pages: number, signal: AbortSignal): Promise<void> {
    const { pagesPerSecond } = this.#deps.knobs();
    if (pagesPerSecond > 0) await sleep((pages * 1000) / pagesPerSecond, signal);
  }

  async #stop(): Promise<void> {
    const { machine, now } = this.#deps;
    if (machine.hold?.stage === "switchover") return;
    this.#stoppedAtMs = now();
    machine.setHold({ migrationId: this.migrationId, stage: "switchover", memoryBegun: false });
  }

  async #flush(channel: OutgoingChannel, socketOf: SocketOf, signal: AbortSignal): Promise<void> {
    await this.#send(channel, channel.pages.dirtyPages, socketOf, signal);
    await channel.finish(signal);
  }

  /** The guest is stopped and its disk is there. Once it is committed, its memory follows, by as many connections as it takes. */
  async *#follow(move: Move, socketOf: SocketOf, signal: AbortSignal): AsyncGenerator<SendProgress> {
    const { machine, gate } = this.#deps;
    const memory = this.#memory;
    this.#follows = true;
    yield this.#tell("post-copy");
    if (!move.committed || !memory) return;
    const { migrationId } = this;
    machine.setHold({ migrationId, stage: "offered", memoryBegun: true, committed: true });
    await gate.enter("post-copy", signal);
    for (;;) {
      try {
        if (!memory.isConnected) await memory.connect(socketOf("memory"), signal);
        await memory.sendState(signal);
        while (memory.pages.dirtyPages.length > 0) {
          const batch = memory.pages.dirtyPages.slice(0, followingBatch);
          await memory.send(batch, signal);
          await this.#keepPace(batch.length, signal);
          this.#followedPages += batch.length;
          if (performance.now() - this.#toldAt >= tellMs) yield this.#tell("post-copy");
        }
        await memory.finish(signal);
        break;
      } catch (thrown) {
        if (signal.aborted) throw cancelled(signal);
        if (!isFault(thrown, "unavailable")) throw thrown;
        this.#recoveries++;
        yield { ...this.#tell("post-copy"), interrupted: true };
        await sleep(backoffMs(0, { baseMs: pollMs * 2, capMs: pollMs * 2 }), signal);
      }
    }
    gate.leave("post-copy");
    machine.setHold({ migrationId, stage: "handed-over", memoryBegun: false, committed: true });
    this.close();
    yield { ...this.#tell("handed-over"), interrupted: false };
  }

  #loseMemory(): void {
    if (this.#deps.machine.hold?.stage !== "offered") this.#over.abort(lost());
  }

  /** It does not converge: whether it is to stop the guest all the same. Throws when it is to give up. */
  #forced({ onUnreachable, switchOver, type }: Move): boolean {
    this.#stalls++;
    this.#stalled = 0;
    if (onUnreachable === OnUnreachable.FORCE) return switchOver;
    if (onUnreachable === OnUnreachable.THROTTLE) {
      this.#deps.machine.throttle();
      return false;
    }
    if (type === MoveType.POSTCOPY) {
      this.#follows = true;
      return switchOver;
    }
    throw new Fault("conflict", "the guest writes faster than the link carries", {
      reason: "MAX_DOWNTIME_UNREACHABLE",
    });
  }

  #dirtyPages(): number {
    return this.#channels.reduce((sum, { pages }) => sum + pages.dirtyPages.length, 0);
  }

  #leftMs(): number {
    const rate = this.#deps.knobs().pagesPerSecond || Math.max(this.#pagesPerSecond, 1000);
    return (this.#dirtyPages() * 1000) / rate;
  }

  #tell(phase: SendProgress["phase"]): SendProgress {
    this.#toldAt = performance.now();
    const isStopped = phase === "switchover" || phase === "post-copy" || phase === "handed-over";
    const stopped = isStopped ? this.#stoppedAtMs : undefined;
    if (stopped !== undefined && phase !== "switchover") this.#stoppedMs ??= this.#deps.now() - stopped;
    const convergence = {
      ...{ stalls: this.#stalls, recoveries: this.#recoveries, throttlePercent: 0, forced: false },
      ...{ postCopyBytes: this.#followedPages * pageBytes, pageRequests: 0 },
    };
    this.#stalls = this.#recoveries = 0;
    const { keptPages } = this.#disk;
    const total = this.#channels.reduce((sum, { pages }) => sum + pages.pages, 0) - (keptPages ?? 0);
    return {
      phase,
      bytesTotal: total * pageBytes,
      bytesRemaining: phase === "handed-over" ? 0 : this.#dirtyPages() * pageBytes,
      zeroBytes: (this.#memory?.zeroPages ?? 0) * pageBytes,
      dirtyRate: Math.round(this.#dirtyPerSecond * pageBytes),
      throughput: Math.round(this.#pagesPerSecond * pageBytes),
      ...(keptPages !== undefined && { diskKeptBytes: keptPages * pageBytes }),
      rounds: this.#rounds,
      predictedDowntimeMs: Math.round(this.#leftMs()),
      ...(stopped !== undefined && { stoppedAtMs: stopped }),
      ...(this.#stoppedMs !== undefined && { stoppedMs: this.#stoppedMs }),
      convergence,
    };
  }
}

function ended(): Fault {
  return new Fault("conflict", "the machine ended while it was moving", { reason: "MACHINE_ENDED" });
}

/**
 * The source of a move: looks at what is true, does one thing, and looks again, until the guest has been handed over.
 * Nothing is remembered between looks that a new call could not do without. QEMU's events only wake it.
 */
import { type Move, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault } from "#kernel/fault.ts";
import { backoffMs, deadline, sleep } from "#kernel/retry.ts";
import type { HeldSocket, MemoryBacklog, SendProgress } from "../../driver.ts";
import { readMemory } from "../hotplug.ts";
import type { RunningMachine } from "../running-machine.ts";
import { memoryChannel } from "./channels.ts";
import type { Course } from "./course.ts";
import { decideStep, type Step } from "./decide.ts";
import type { DiskCopier } from "./disk-copier.ts";
import { chooseWay } from "./give-way.ts";
import {
  deriveLimits,
  downtimeBudgetMs,
  greatestDowntimeMs,
  type Limits,
  nextDowntimeMs,
  setLimits,
} from "./limits.ts";
import { deriveConvergence, deriveProgress, isNear } from "./progress.ts";
import { areDisksNear, readSituation, type Situation } from "./situation.ts";
import { beginTimeoutMs, goOn, readyStream, startStream } from "./stream.ts";

export interface Sending {
  readonly machine: RunningMachine;
  readonly move: Move;
  readonly socketOf: (channel: string) => string;
  readonly backlog: MemoryBacklog | undefined;
  readonly course: Course;
  /** Outlives the calls: a copy goes on between them. */
  readonly disks: DiskCopier;
  /** Where the memory's stream has begun already, and waits. */
  readonly ahead: HeldSocket | undefined;
  /** Memory may have been sent already; told before it is. */
  readonly begun: boolean;
  /** What is left of the memory is to follow the guest; told before that is begun. */
  readonly postCopy: boolean;
  remember(what: { readonly begun: true } | { readonly postCopy: true }): Promise<void>;
}

const tellMs = 500;
/**
 * How often to look when no event wakes us: closely while there is a decision near. Even then a guest's last pages may be
 * gone by the next look, since those that are zero take no time, and QEMU asks nobody whether it may end with nothing left.
 */
const lookMs = { memory: 100, near: 20 } as const;
/** While disks are copied: after a share of the time that this has taken so far, for most copies are short. */
const diskLook = { share: 0.2, leastMs: 10, mostMs: 200 } as const;
/** With less than this to go, a stream that may not end yet is held back; with more than twice, it goes on. */
const holdMs = 300;
/** How long rounds without progress are borne; a throttled guest is slowed in several steps. */
const patienceMs = { ambitious: 500, plain: 3_000, throttled: 20_000 } as const;
/** How long the guest may stand still at worst before it is let go on: so many times what was allowed. */
const standstill = { times: 10, leastMs: 10_000, forcedMs: 600_000 } as const;
/** A command that QEMU goes on refusing is wrong, not late. */
const mostRefusals = 5;
/** Looks at a migration that is complete but does not tell its times yet. */
const looksForTimes = 25;
const recovering = { baseMs: 100, capMs: 2_000, noticeMs: 5_000 };

/**
 * Sends the machine; ends after `handed-over` was told, or after `post-copy` when that is not committed yet. Throws what
 * made it fail, with the guest not yet resumed.
 */
export async function* sendMachine(sending: Sending, signal: AbortSignal): AsyncGenerator<SendProgress> {
  yield* new Sender(sending, signal).run();
}

class Sender {
  readonly #sending: Sending;
  readonly #signal: AbortSignal;
  readonly #disks: DiskCopier;
  readonly #course: Course;
  readonly #sinceMs = performance.now();
  #begun: boolean;
  #postCopy: boolean;
  #finalLooks = 0;
  /** How long the guest may stand still, as QEMU is told: more after each try that got nowhere. */
  #downtimeMs: number;
  #set: Limits | undefined;
  #memoryBytes = 0;
  /** In a row. */
  #refusals = 0;
  /** Since they were told last. */
  #stalls = 0;
  #recoveries = 0;
  /** In a row, of connections that were made again. */
  #failures = 0;

  constructor(sending: Sending, signal: AbortSignal) {
    this.#sending = sending;
    this.#signal = signal;
    this.#disks = sending.disks;
    this.#course = sending.course;
    this.#course.pace.forgive(this.#sinceMs);
    this.#begun = sending.begun;
    this.#postCopy = sending.postCopy;
    this.#downtimeMs = nextDowntimeMs(sending.move, 0);
  }

  async *run(): AsyncGenerator<SendProgress> {
    const { machine, move } = this.#sending;
    const { bootBytes, pluggedBytes } = await readMemory(machine, this.#signal);
    this.#memoryBytes = Number(bootBytes + pluggedBytes);
    let told: { readonly phase: string; readonly atMs: number } | undefined;
    for (;;) {
      this.#signal.throwIfAborted();
      const seen = machine.eventCount;
      const now = await this.#disks.see(await readSituation(machine, this.#signal), this.#signal);
      const step = decideStep(now, {
        begun: this.#begun,
        uncommitted: this.#postCopy && !move.committed,
      });
      await this.#try(step, now);
      // What was seen then is of an earlier migration, if of any.
      if (step.do === "stream") continue;
      const progress = this.#progress(now);
      if (
        this.#mayTell(progress) &&
        (told?.phase !== progress.phase || performance.now() - told.atMs >= tellMs)
      ) {
        told = { phase: progress.phase, atMs: performance.now() };
        this.#stalls = this.#recoveries = 0;
        yield progress;
        if (progress.phase === "handed-over") return;
        if (progress.phase === "post-copy" && !move.committed) return;
      }
      if (step.do === "watch" || step.do === "finish" || step.do === "release") {
        await machine.eventAfter(seen, this.#lookAgainMs, this.#signal);
      }
    }
  }

  /** What was true when we looked may be past when QEMU hears of it; it refuses then, and a new look tells why. */
  async #try(step: Step, now: Situation): Promise<void> {
    const steers = ["watch", "resume", "release", "continue", "recover"].includes(step.do);
    try {
      await this.#act(step, now);
      this.#refusals = 0;
    } catch (thrown) {
      const refused = thrown instanceof Fault && thrown.reason === "QMP_COMMAND_FAILED";
      if (!steers || !refused || ++this.#refusals > mostRefusals) throw thrown;
      await this.#sending.machine.eventAfter(this.#sending.machine.eventCount, lookMs.near, this.#signal);
    }
  }

  async #act(step: Step, now: Situation): Promise<void> {
    const { machine } = this.#sending;
    if (step.do === "fail") throw step.fault;
    else if (step.do === "mirror") await this.#disks.mirror(step.disk);
    else if (step.do === "resume") await this.#disks.resume(step.disk, now, this.#signal);
    else if (step.do === "release") await this.#disks.release(step.disk, this.#signal);
    else if (step.do === "stream") await this.#stream();
    else if (step.do === "watch") await this.#watch(now);
    else if (step.do === "recover") await this.#recover();
    else if (step.do === "continue") {
      await machine.execute("migrate-continue", { state: "pre-switchover" }, this.#signal);
    }
  }

  /** A migration that has completed may not have its times yet: they are worth some looks more. */
  #mayTell({ phase, stoppedMs }: SendProgress): boolean {
    if (phase !== "handed-over" || this.#postCopy || stoppedMs !== undefined) return true;
    return this.#finalLooks++ > looksForTimes;
  }

  #progress(now: Situation): SendProgress {
    const { pace, near } = this.#course;
    const { stoppedAtMs } = this.#sending.machine;
    const forced = this.#downtimeMs === greatestDowntimeMs;
    this.#course.near = this.#begun && (forced || this.#postCopy || isNear(now, pace, near));
    const { committed } = this.#sending.move;
    const progress = deriveProgress(now, {
      ...{ begun: this.#begun, near: this.#course.near, postCopy: this.#postCopy, committed },
      ...{ pace, stoppedAtMs, nowMs: Date.now(), memoryBytes: this.#memoryBytes },
    });
    const struggles = { stalls: this.#stalls, recoveries: this.#recoveries, forced };
    const { keptBytes } = this.#disks;
    return {
      ...progress,
      ...(keptBytes !== undefined && { diskKeptBytes: keptBytes }),
      convergence: deriveConvergence(now, struggles),
    };
  }

  async #stream(): Promise<void> {
    const { machine, move, socketOf, ahead } = this.#sending;
    // Not to be aborted half-way: what is remembered as begun must have begun.
    using limit = deadline(beginTimeoutMs, "beginning to send the memory");
    if (!ahead) await readyStream(machine, move, limit);
    await this.#sending.remember({ begun: true });
    this.#begun = true;
    if (ahead && (await goOn(machine, ahead, limit))) return;
    if (ahead) await readyStream(machine, move, limit);
    await startStream(machine, socketOf(memoryChannel), limit);
  }

  /** Follows what goes by itself, and steers it. */
  async #watch(now: Situation): Promise<void> {
    const { move } = this.#sending;
    const course = this.#course;
    const { pace } = course;
    const { status, ram } = now.migration;
    if (status === "postcopy-active") this.#failures = 0;
    this.#refuseStandstill(now);
    if (!this.#begun || status !== "active" || !ram) return;
    const atMs = performance.now();
    const { remaining, transferred } = ram;
    pace.add({ atMs, remaining, transferred, rounds: ram["dirty-sync-count"] }, course.held);
    const leftMs = pace.timeFor(remaining);
    // The guest must not stop while there is much of its disk to go, or much on its way.
    const mayEnd =
      this.#isArriving(leftMs) &&
      move.switchOver &&
      areDisksNear(now, (bytes) => pace.timeFor(bytes), this.#downtimeMs);
    course.held = !mayEnd && leftMs < (course.held ? 2 * holdMs : holdMs);
    if (this.#postCopy) {
      if (mayEnd) await this.#sending.machine.execute("migrate-start-postcopy", {}, this.#signal);
    } else if ((move.switchOver || !course.near) && pace.stalled(atMs, this.#patienceMs)) {
      await this.#giveWay(now);
    }
    const limits = deriveLimits({ held: course.held, mayEnd, downtimeMs: this.#downtimeMs });
    await this.#tune(limits, this.#signal);
  }

  /** What a post-copy leaves is to follow the guest, however much that is. */
  #isArriving(leftMs: number): boolean {
    const { backlog } = this.#sending;
    if (!backlog || this.#postCopy) return true;
    const { lastStretch, pace } = this.#course;
    return lastStretch.look(backlog, leftMs, this.#downtimeMs, pace.throughput);
  }

  /** The connection of a post-copy was lost: both QEMUs wait for the next, for as long as it takes. */
  async #recover(): Promise<void> {
    const { machine, socketOf } = this.#sending;
    await sleep(backoffMs(this.#failures++, recovering), this.#signal);
    await machine.execute("migrate", { uri: `unix:${socketOf(memoryChannel)}`, resume: true }, this.#signal);
    this.#recoveries++;
    await this.#awaitResumption();
  }

  /**
   * QEMU connects after its answer. Told to resume again before it has, it would take that for a new migration, and lose
   * what it still has of the guest.
   */
  async #awaitResumption(): Promise<void> {
    const { machine } = this.#sending;
    const until = performance.now() + recovering.noticeMs;
    while (performance.now() < until) {
      const seen = machine.eventCount;
      const { status } = await machine.execute("query-migrate", {}, this.#signal);
      if (status !== "postcopy-paused") return;
      await machine.eventAfter(seen, lookMs.memory, this.#signal);
    }
  }

  /** A guest that has stopped and is not taken is let go on; nothing was committed by then. */
  #refuseStandstill({ migration }: Situation): void {
    const { machine, move } = this.#sending;
    const { status = "none" } = migration;
    if (machine.stoppedAtMs === undefined || !["pre-switchover", "device"].includes(status)) return;
    const forced = move.onUnreachable === OnUnreachable.FORCE;
    const allowedMs = Math.max(standstill.leastMs, standstill.times * move.maxDowntimeMs);
    if (Date.now() - machine.stoppedAtMs < (forced ? standstill.forcedMs : allowedMs)) return;
    throw new Fault("conflict", "the guest stood still for too long", { reason: "MOVE_SWITCHOVER_TIMEOUT" });
  }

  get #patienceMs(): number {
    const { move } = this.#sending;
    if (move.switchOver && this.#downtimeMs < downtimeBudgetMs(move)) return patienceMs.ambitious;
    return move.onUnreachable === OnUnreachable.THROTTLE ? patienceMs.throttled : patienceMs.plain;
  }

  async #giveWay({ migration }: Situation): Promise<void> {
    const { move } = this.#sending;
    const { bestMs } = this.#course.pace;
    const throttlePercent = migration["cpu-throttle-percentage"] ?? 0;
    const way = chooseWay(move, { downtimeMs: this.#downtimeMs, throttlePercent });
    if (way === "ask-more") {
      this.#downtimeMs = nextDowntimeMs(move, this.#downtimeMs, bestMs);
      // More than it may get would be needed: that is no other way than before.
      if (bestMs > this.#downtimeMs) return;
    }
    this.#course.pace.forgive(performance.now());
    this.#stalls++;
    if (way === "force") this.#downtimeMs = greatestDowntimeMs;
    else if (way === "post-copy") {
      await this.#sending.remember({ postCopy: true });
      this.#postCopy = true;
    }
  }

  async #tune(limits: Limits, signal: AbortSignal): Promise<void> {
    const last = this.#set;
    if (last?.bandwidth === limits.bandwidth && last.downtimeMs === limits.downtimeMs) return;
    await setLimits(this.#sending.machine, limits, signal);
    this.#set = limits;
  }

  get #lookAgainMs(): number {
    if (!this.#begun) {
      const { share, leastMs, mostMs } = diskLook;
      return Math.min(mostMs, Math.max(leastMs, share * (performance.now() - this.#sinceMs)));
    }
    return this.#course.near || this.#course.held ? lookMs.near : lookMs.memory;
  }
}

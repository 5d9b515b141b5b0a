/**
 * The source of a move: looks at what is true, does one thing, and looks again, until the guest has been handed over.
 * Nothing is remembered between looks that a new call could not do without. QEMU's events only wake it.
 */
import { type Move, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault } from "#kernel/fault.ts";
import type { SendProgress } from "../../driver.ts";
import type { RunningMachine } from "../running-machine.ts";
import { dropTarget } from "./call-off.ts";
import { diskChannel, memoryChannel, type MovedDisk } from "./channels.ts";
import { decideStep } from "./decide.ts";
import { deriveLimits, downtimeBudgetMs, greatestDowntimeMs, type Limits, nextDowntimeMs, setCapabilities, setLimits } from "./limits.ts";
import { Pace } from "./pace.ts";
import { deriveProgress, isNear } from "./progress.ts";
import { readSituation, type Situation } from "./situation.ts";

export interface Sending {
  readonly machine: RunningMachine;
  readonly move: Move;
  readonly socketOf: (channel: string) => string;
  /** Memory may have been sent already; told before it is. */
  readonly begun: boolean;
  rememberBegun(): Promise<void>;
}

const tellMs = 500;
/** How often to look when no event wakes us: closely while there is a decision near. */
const lookMs = { disks: 200, memory: 100, near: 20 } as const;
/** With less than this to go, a stream that may not end yet is held back; with more than twice, it goes on. */
const holdMs = 300;
/** A connection that was cut may take so long to come back before requests on it fail, and the copy stops. */
const reconnectSeconds = 10;
/** The copy is taken up again after such a stop, for so long in all. */
const resumeLimitMs = 300_000;
/** How long a round without progress is borne; a throttled guest is slowed in several steps. */
const patienceMs = { ambitious: 500, plain: 3_000, throttled: 20_000 } as const;

/** Sends the machine; ends after `handed-over` was told. Throws what made it fail, with the guest not yet resumed. */
export async function* sendMachine(sending: Sending, signal: AbortSignal): AsyncGenerator<SendProgress> {
  yield* new Sender(sending, signal).run();
}

class Sender {
  readonly #sending: Sending;
  readonly #signal: AbortSignal;
  readonly #pace = new Pace();
  #begun: boolean;
  #held = false;
  /** How long the guest may stand still, as QEMU is told: more after each try that got nowhere. */
  #downtimeMs: number;
  #set: Limits | undefined;
  #brokenSinceMs: number | undefined;
  readonly #released = new Set<string>();

  constructor(sending: Sending, signal: AbortSignal) {
    this.#sending = sending;
    this.#signal = signal;
    this.#begun = sending.begun;
    this.#downtimeMs = nextDowntimeMs(sending.move, 0);
  }

  async *run(): AsyncGenerator<SendProgress> {
    const { machine, move } = this.#sending;
    let told: { readonly phase: string; readonly atMs: number } | undefined;
    for (;;) {
      this.#signal.throwIfAborted();
      const seen = machine.eventCount;
      const now = await readSituation(machine, this.#signal);
      const step = decideStep(now, this.#begun);
      if (step.do === "fail") throw step.fault;
      if (step.do === "watch") await this.#watch(now);
      else if (step.do !== "finish") await this.#act(step.do, "disk" in step ? step.disk : undefined);
      const pace = this.#pace;
      const stoppedAtMs = machine.stoppedAtMs;
      const progress = deriveProgress(now, { begun: this.#begun, move, pace, stoppedAtMs });
      // A completed migration may not have its times yet: they are worth another look.
      const final = progress.phase !== "handed-over" || progress.stoppedMs !== undefined;
      if (final && (told?.phase !== progress.phase || performance.now() - told.atMs >= tellMs)) {
        told = { phase: progress.phase, atMs: performance.now() };
        yield progress;
        if (progress.phase === "handed-over") return;
      }
      if (step.do === "watch" || step.do === "finish") {
        await machine.eventAfter(seen, this.#lookAgainMs(now), this.#signal);
      }
    }
  }

  async #act(step: "mirror" | "resume" | "release" | "stream" | "continue", disk?: MovedDisk): Promise<void> {
    const { machine } = this.#sending;
    if (disk && step === "mirror") await this.#mirror(disk);
    else if (disk && step === "resume") await this.#resume(disk);
    else if (disk && step === "release") await this.#release(disk);
    else if (step === "stream") await this.#stream();
    else await machine.execute("migrate-continue", { state: "pre-switchover" }, this.#signal);
  }

  async #mirror(disk: MovedDisk): Promise<void> {
    const { machine, socketOf } = this.#sending;
    await dropTarget(machine, disk.target, this.#signal);
    const target = {
      driver: "nbd",
      "node-name": disk.target,
      server: { type: "unix", path: socketOf(diskChannel(disk)) },
      export: disk.name,
      "reconnect-delay": reconnectSeconds,
      "open-timeout": reconnectSeconds,
      discard: "unmap",
      "detect-zeroes": "unmap",
    };
    await machine.execute("blockdev-add", target, this.#signal, connectTimeoutMs);
    const job = {
      "job-id": disk.job,
      device: disk.node,
      target: disk.target,
      sync: "top",
      "copy-mode": "background",
      // It stops instead of ending, so that it can go on where it was.
      "on-target-error": "stop",
      // A job that ended stays until we have seen how.
      "auto-dismiss": false,
    };
    await machine.execute("blockdev-mirror", job, this.#signal);
  }

  async #resume(disk: MovedDisk): Promise<void> {
    const { machine } = this.#sending;
    const nowMs = performance.now();
    this.#brokenSinceMs ??= nowMs;
    if (nowMs - this.#brokenSinceMs > resumeLimitMs) {
      throw new Fault("conflict", "the connection to the other host did not come back", {
        reason: "MOVE_DISK_LOST",
      });
    }
    await machine.execute("block-job-resume", { device: disk.job }, this.#signal);
    await machine.eventAfter(machine.eventCount, 1_000, this.#signal);
  }

  /** The guest has stopped: the copy ends as soon as it is equal. */
  async #release(disk: MovedDisk): Promise<void> {
    const { machine } = this.#sending;
    const seen = machine.eventCount;
    if (!this.#released.has(disk.job)) {
      await machine.execute("block-job-cancel", { device: disk.job }, this.#signal);
      this.#released.add(disk.job);
    } else await machine.eventAfter(seen, lookMs.near, this.#signal);
  }

  async #stream(): Promise<void> {
    const { machine, move, socketOf } = this.#sending;
    const limits = deriveLimits(move, { held: false, downtimeMs: this.#downtimeMs });
    await setCapabilities(machine, limits, this.#signal);
    await this.#tune(limits);
    await this.#sending.rememberBegun();
    this.#begun = true;
    await machine.execute("migrate", { uri: `unix:${socketOf(memoryChannel)}` }, this.#signal);
  }

  /** Follows what goes by itself, and steers it. */
  async #watch(now: Situation): Promise<void> {
    const { move } = this.#sending;
    this.#brokenSinceMs = undefined;
    const { status, ram } = now.migration;
    if (!this.#begun || status !== "active" || !ram) return;
    const atMs = performance.now();
    const { remaining, transferred } = ram;
    const sample = { atMs, remaining, transferred, rounds: ram["dirty-sync-count"] };
    this.#pace.add(sample, this.#held);
    const leftMs = this.#pace.timeFor(ram.remaining);
    this.#held = !move.switchOver && leftMs < (this.#held ? 2 * holdMs : holdMs);
    if (this.#pace.stalled(atMs, this.#patienceMs)) this.#giveWay(now);
    await this.#tune(deriveLimits(move, { held: this.#held, downtimeMs: this.#downtimeMs }));
  }

  get #patienceMs(): number {
    const { move } = this.#sending;
    if (move.switchOver && this.#downtimeMs < downtimeBudgetMs(move)) return patienceMs.ambitious;
    return move.onUnreachable === OnUnreachable.THROTTLE ? patienceMs.throttled : patienceMs.plain;
  }

  /** The guest writes faster than the link carries. */
  #giveWay({ migration }: Situation): void {
    const { move } = this.#sending;
    this.#pace.forgive(performance.now());
    if (move.switchOver && this.#downtimeMs < downtimeBudgetMs(move)) {
      this.#downtimeMs = nextDowntimeMs(move, this.#downtimeMs);
      return;
    }
    const throttle = migration["cpu-throttle-percentage"] ?? 0;
    const canThrottle = move.onUnreachable === OnUnreachable.THROTTLE && throttle < 99;
    if (!canThrottle && move.onUnreachable !== OnUnreachable.FORCE) {
      throw new Fault("conflict", "the guest writes faster than the link carries", {
        reason: "MAX_DOWNTIME_UNREACHABLE",
        detail: { max_downtime_ms: move.maxDowntimeMs, throttle_percent: throttle },
      });
    }
    if (!canThrottle) this.#downtimeMs = greatestDowntimeMs;
  }

  async #tune(limits: Limits): Promise<void> {
    const last = this.#set;
    if (last?.bandwidth === limits.bandwidth && last.downtimeMs === limits.downtimeMs) return;
    await setLimits(this.#sending.machine, limits, this.#signal);
    this.#set = limits;
  }

  #lookAgainMs(now: Situation): number {
    if (!this.#begun) return lookMs.disks;
    return isNear(now, this.#pace) || this.#held ? lookMs.near : lookMs.memory;
  }
}

const connectTimeoutMs = 20_000;

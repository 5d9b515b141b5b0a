/**
 * Tells the control plane what became of this host's machines. One report at a time; what changes
 * meanwhile goes with the next, as the latest state of each machine. While the control plane is away
 * nothing is lost but the oldest samples. Everything in a report may be told twice: `seq` orders it.
 */
import { create, equals, type MessageInitShape } from "@bufbuild/protobuf";
import { type Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, deadline, sleep } from "#kernel/retry.ts";
import type { HostFacts, HostLabels } from "#gen/skerry/agent/v1/host_pb.js";
import {
  FenceSchema,
  type ForeignMachines,
  ForeignMachinesSchema,
  type Machine,
} from "#gen/skerry/agent/v1/machine_pb.js";
import type { HostMetrics, MachineMetrics } from "#gen/skerry/agent/v1/metrics_pb.js";
import type { ReportRequestSchema } from "#gen/skerry/control/v1/control_pb.js";
import type { Change, ChangeFeed } from "../machines/change-feed.ts";
import { Waiters } from "../machines/waiters.ts";

type Report = MessageInitShape<typeof ReportRequestSchema>;

export interface Samples {
  readonly host: HostMetrics;
  readonly machines: readonly MachineMetrics[];
  /** What others made on this host; absent where the driver cannot tell. */
  readonly foreign?: ForeignMachines | undefined;
}

export interface ReporterOptions {
  send(
    report: Report,
    signal: AbortSignal,
  ): Promise<{ readonly nextReportMs: number; readonly wantFull: boolean; readonly leaseMs: number }>;
  /** What answers renew, counted from when the report was sent. */
  readonly lease?: { now(): number; renew(sentAtMs: number, leaseMs: number): void };
  /** True while machines of this host run only as long as its lease does: it is renewed in time for two reports to fail. */
  readonly isUrgent?: () => boolean;
  /** Every machine as it is now. */
  machines(): readonly Machine[];
  sample(): Promise<Samples>;
  readonly changes: ChangeFeed;
  readonly sessionId: string;
  readonly facts: HostFacts;
  readonly labels: HostLabels;
  readonly sampleMs: number;
  readonly log: Logger;
  readonly timing?: Partial<ReporterTiming>;
}

export interface ReporterTiming {
  /** Between reports when nothing changes, until the control plane says otherwise. */
  readonly idleMs: number;
  /** Changes so close together go in one report. */
  readonly coalesceMs: number;
  /**
   * The same for steps on the way of a command that is waited for: its answer tells the control plane what
   * became of the machine, and a report of each step would only be work.
   */
  readonly awaitedMs: number;
  readonly sendLimitMs: number;
  readonly backoff: { readonly baseMs: number; readonly capMs: number };
}

export interface ReporterState {
  readonly connected: boolean;
  /** Changes that have not been acknowledged. */
  readonly pending: number;
  readonly samples: number;
  /** Failures in a row, and the last of them. */
  readonly attempt: number;
  readonly fault: Fault | undefined;
}

const defaultTiming: ReporterTiming = {
  idleMs: 5000,
  coalesceMs: 50,
  awaitedMs: 500,
  sendLimitMs: 15_000,
  backoff: { baseMs: 500, capMs: 30_000 },
};
/** Samples kept while the control plane is away: the newest. */
const mostSamples = 2000;
const samplesPerReport = 500;
/** Looked at again this often, though everything that matters ends the wait. */
const longestWaitMs = 60_000;

export class Reporter {
  readonly #options: ReporterOptions;
  readonly #timing: ReporterTiming;
  readonly #pending = new Map<string, Change>();
  #samples: MachineMetrics[] = [];
  #hostSample: HostMetrics | undefined;
  /** What others made here, as it is now and as the control plane was told. */
  #foreign: { readonly now?: ForeignMachines; readonly told?: ForeignMachines } = {};
  #connected = false;
  #wantsFull = true;
  #attempt = 0;
  #fault: Fault | undefined;
  /** When the next report goes out at the latest, and at the earliest; `performance.now()` times. */
  #dueAt = 0;
  #notBefore = 0;
  readonly #waiting = new Waiters();

  constructor(options: ReporterOptions) {
    this.#options = options;
    this.#timing = { ...defaultTiming, ...options.timing };
  }

  get state(): ReporterState {
    return {
      connected: this.#connected,
      pending: this.#pending.size,
      samples: this.#samples.length,
      attempt: this.#attempt,
      fault: this.#fault,
    };
  }

  /** The transport says that the control plane came or went. After each coming it is told everything. */
  setConnected(connected: boolean): void {
    if (connected && !this.#connected) {
      this.#wantsFull = true;
      this.#attempt = 0;
      this.#dueAt = this.#notBefore = 0;
    }
    this.#connected = connected;
    this.#waiting.release();
  }

  /** The host is not what it was told to be: all is told again. */
  factsChanged(): void {
    this.#wantsFull = true;
    this.#dueAt = 0;
    this.#waiting.release();
  }

  /** Reports until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    using _subscription = this.#options.changes.subscribe((change) => this.#note(change));
    await Promise.all([this.#reportAll(signal), this.#sampleAll(signal)]);
  }

  #note(change: Change): void {
    const id = "changed" in change ? change.changed.id : change.removed.id;
    this.#pending.set(id, change);
    const { awaitedMs, coalesceMs } = this.#timing;
    const waitMs = this.#options.changes.isAwaited(id) ? awaitedMs : coalesceMs;
    this.#dueAt = Math.min(this.#dueAt, performance.now() + waitMs);
    this.#waiting.release();
  }

  async #reportAll(signal: AbortSignal): Promise<void> {
    while (await this.#waitUntilDue(signal)) {
      // Set before it is put together: a change from here on makes the next report due.
      this.#dueAt = Infinity;
      const { report, acknowledge } = this.#compose();
      const { lease } = this.#options;
      const sentAtMs = lease?.now() ?? 0;
      try {
        const answer = await this.#send(report, signal);
        lease?.renew(sentAtMs, answer.leaseMs);
        acknowledge();
        this.#attempt = 0;
        this.#fault = undefined;
        this.#wantsFull ||= answer.wantFull;
        const idleMs = this.#idleMs(answer);
        const waitMs = this.#samples.length > samplesPerReport ? 0 : idleMs;
        this.#dueAt = Math.min(this.#dueAt, performance.now() + waitMs);
      } catch (thrown) {
        if (signal.aborted) return;
        this.#wantsFull ||= report.full === true;
        this.#fault = toFault(thrown);
        const waitMs = backoffMs(this.#attempt++, this.#timing.backoff);
        this.#dueAt = this.#notBefore = performance.now() + waitMs;
        this.#options.log.warn("report.failed", { attempt: this.#attempt, waitMs, fault: this.#fault });
      }
    }
  }

  #idleMs({ nextReportMs, leaseMs }: { readonly nextReportMs: number; readonly leaseMs: number }): number {
    const idleMs = nextReportMs || this.#timing.idleMs;
    return leaseMs > 0 && this.#options.isUrgent?.() ? Math.min(idleMs, leaseMs / 4) : idleMs;
  }

  /** On its own, because a `using` in a loop remembers an earlier round's error when it is compiled by esbuild. */
  async #send(report: Report, signal: AbortSignal): ReturnType<ReporterOptions["send"]> {
    using limit = deadline(this.#timing.sendLimitMs, "the report", signal);
    return await this.#options.send(report, limit);
  }

  /** False when the signal aborted instead. */
  async #waitUntilDue(signal: AbortSignal): Promise<boolean> {
    while (!signal.aborted) {
      const waitMs = Math.max(this.#dueAt, this.#notBefore) - performance.now();
      if (this.#connected && waitMs <= 0) return true;
      await this.#waiting.wait(this.#connected ? Math.ceil(waitMs) : longestWaitMs, signal);
    }
    return false;
  }

  #compose(): { readonly report: Report; readonly acknowledge: () => void } {
    const { sessionId, facts, labels } = this.#options;
    const full = this.#wantsFull;
    const { now: foreign, told: known } = this.#foreign;
    this.#wantsFull = false;
    const told = new Map(this.#pending);
    const samples = this.#samples.slice(0, samplesPerReport);
    const hostSample = this.#hostSample;
    const changed = [...told.values()].flatMap((change) => ("changed" in change ? change.changed : []));
    const removed = [...told.values()].flatMap((change) => ("removed" in change ? change.removed : []));
    const report: Report = {
      sessionId,
      full,
      machines: full ? [...this.#options.machines()] : changed,
      removed: removed.map(({ id, seq, fence }) => ({ id, seq, fence: create(FenceSchema, fence) })),
      machineMetrics: samples,
      ...(hostSample && { hostMetrics: hostSample }),
      ...(full && { facts, labels }),
      ...(foreign && (full || foreign !== known) && { foreign }),
    };
    const acknowledge = () => {
      for (const [id, change] of told) if (this.#pending.get(id) === change) this.#pending.delete(id);
      const sent = new Set(samples);
      this.#samples = this.#samples.filter((sample) => !sent.has(sample));
      if (this.#hostSample === hostSample) this.#hostSample = undefined;
      if (foreign) this.#foreign = { ...this.#foreign, told: foreign };
    };
    return { report, acknowledge };
  }

  /** The same list is the same object, so that what was told is known by it. */
  #noteForeign(now: ForeignMachines): void {
    if (this.#foreign.now && equals(ForeignMachinesSchema, this.#foreign.now, now)) return;
    this.#foreign = { ...this.#foreign, now };
    this.#dueAt = 0;
    this.#waiting.release();
  }

  async #sampleAll(signal: AbortSignal): Promise<void> {
    const { sampleMs, log } = this.#options;
    while (!signal.aborted) {
      try {
        const { host, machines, foreign } = await this.#options.sample();
        if (foreign) this.#noteForeign(foreign);
        this.#hostSample = host;
        this.#samples = [...this.#samples, ...machines].slice(-mostSamples);
      } catch (fault) {
        log.warn("sample.failed", { fault });
      }
      await sleep(sampleMs, signal).catch(() => undefined); // aborted: the loop ends
    }
  }
}

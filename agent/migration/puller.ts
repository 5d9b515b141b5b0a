/**
 * The destination's half of a move: one call per channel, taken up again after a cut where that is sound, until all
 * channels have ended in order.
 */
import type { Duplex } from "node:stream";
import { Fault, isFault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import { cancelled } from "#kernel/stall.ts";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { keepYoungGenerationSmall, markSeldom } from "../heap.ts";
import { ThreadedDecoder } from "./coding/coders.ts";
import { CodingWorkers } from "./coding/workers.ts";
import { emptyMemory, type GuestMemory } from "./guest-memory.ts";
import { FrameReceiver } from "./frame-receiver.ts";
import type { StreamOpener } from "./opener.ts";
import { PageStage, type OpenPages, type PageStageOptions } from "./pages/stage.ts";
import { defaultLimits, isDisk, protocolVersion, type MoveLimits } from "./protocol.ts";
import type { PullRequest } from "./pull-request.ts";
import { MoveCounters, type MoveStats } from "./stats.ts";

export interface MovePullerOptions {
  readonly migrationId: string;
  readonly ticket: Uint8Array;
  readonly channels: readonly string[];
  /** Ways to the source, the best first. */
  readonly openers: readonly StreamOpener[];
  /** Makes this host's hypervisor ready for a connection, before the source is asked for a channel. */
  readonly ready?: (channel: string, signal: AbortSignal) => Promise<void>;
  /** Where the guest's memory is written, if not by its hypervisor. */
  readonly memory?: (signal: AbortSignal) => Promise<GuestMemory | undefined>;
  /** A new connection to this host's hypervisor. */
  readonly connect: (channel: string, signal: AbortSignal) => Promise<Duplex>;
  /** Whether a channel that was cut after it had begun may be opened anew. Default: disks. */
  readonly resumable?: (channel: string) => boolean;
  /** Threads shared with other moves; without them it starts its own. */
  readonly workers?: CodingWorkers;
  /** The image's files, for the page stage. */
  readonly pages?: PageStageOptions;
  /** What this host is willing to decode. Default: all. */
  readonly codecs?: readonly Codec[];
  readonly limits?: Partial<MoveLimits>;
  readonly log: Logger;
}

const allCodecs = [Codec.NONE, Codec.LZ4, Codec.ZSTD, Codec.ZSTD_LONG];
const reopening = { baseMs: 100, capMs: 2000 };

export class MovePuller {
  readonly #options: MovePullerOptions;
  readonly #limits: MoveLimits;
  readonly #workers: CodingWorkers;
  readonly #counters = new MoveCounters();
  readonly #log: Logger;
  readonly #leavingDisks = new AbortController();
  /** The opener that worked last: the others are tried after it. */
  #preferred = 0;

  constructor(options: MovePullerOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#log = options.log.with({ migrationId: options.migrationId });
    this.#workers = options.workers ?? new CodingWorkers({ log: this.#log });
  }

  /** All bytes of the disks are here: their channels end, whatever the source's hypervisor does with its end. */
  leaveDisks(): void {
    this.#leavingDisks.abort(
      new Fault("conflict", "the disks have arrived", { reason: "MOVE_DISKS_ARRIVED" }),
    );
  }

  stats(): MoveStats {
    return this.#counters.snapshot();
  }

  /**
   * Pulls until every channel has ended in order, which says that all bytes have reached the hypervisor, and not that it
   * is content with them. Throws the fault of the first channel that cannot go on, after the others were given up.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { pages } = this.#options;
    const workers = this.#workers;
    using _small = keepYoungGenerationSmall();
    using _seldom = markSeldom();
    using _working = workers.use();
    const staged = pages && pages.sources.length > 0;
    await using stage = staged
      ? new PageStage({ workers, pages, role: "destination", log: this.#log })
      : undefined;
    await this.#pullAll(stage, signal);
  }

  async #pullAll(stage: PageStage | undefined, signal: AbortSignal): Promise<void> {
    const stop = new AbortController();
    const work = AbortSignal.any([signal, stop.signal]);
    const leaving = this.#leavingDisks.signal;
    const channels = this.#options.channels.map(async (channel) => {
      const disk = isDisk(channel);
      try {
        await this.#pullChannel(channel, stage, disk ? AbortSignal.any([work, leaving]) : work);
      } catch (thrown) {
        if (disk && leaving.aborted && !work.aborted) return;
        stop.abort(toFault(thrown));
        throw thrown;
      }
    });
    const ends = await Promise.allSettled(channels);
    const first: unknown = signal.aborted ? cancelled(signal) : stop.signal.reason;
    if (ends.some(({ status }) => status === "rejected")) throw first;
  }

  async #pullChannel(channel: string, stage: PageStage | undefined, signal: AbortSignal): Promise<void> {
    const { resumable = isDisk } = this.#options;
    const pages = isDisk(channel) ? undefined : await stage?.open(signal);
    if (pages) this.#counters.pageStage = true;
    let failingSince = performance.now();
    for (let attempt = 0; ; attempt++) {
      let begun = false;
      try {
        await this.#pullOnce(channel, pages, signal, () => {
          begun = true;
        });
        this.#log.info("move.channel-ended", { channel });
        return;
      } catch (thrown) {
        const fault = toFault(thrown);
        if (fault.reason === "MOVE_CORRUPTED") this.#counters.corruptFrames++;
        if (begun) {
          failingSince = performance.now();
          attempt = 0;
        }
        const worthwhile = fault.retryable && (!begun || resumable(channel));
        const late = performance.now() - failingSince > this.#limits.openMs;
        if (signal.aborted || !worthwhile || late) throw fault;
        const waitMs = backoffMs(attempt, reopening);
        this.#counters.reconnects++;
        this.#log.warn("move.channel-reopened", { channel, attempt, waitMs, fault });
        await sleep(waitMs, signal);
      }
    }
  }

  async #pullOnce(
    channel: string,
    pages: OpenPages | undefined,
    signal: AbortSignal,
    onBegun: () => void,
  ): Promise<void> {
    const { migrationId, ticket, connect, codecs = allCodecs } = this.#options;
    const workers = this.#workers;
    const { slabs } = workers;
    await this.#options.ready?.(channel, signal);
    await using guest = isDisk(channel) ? undefined : await this.#options.memory?.(signal);
    const call = await this.#open(signal);
    const memory = guest && emptyMemory(guest);
    await using decoder = new ThreadedDecoder({ workers, slabs, pageSet: pages?.pageSet, memory });
    const receiver = new FrameReceiver({
      ...{ channel, call, slabs, decoder },
      connect: (until) => {
        onBegun();
        return connect(channel, until);
      },
      counters: this.#counters,
      limits: this.#limits,
    });
    const open = { version: protocolVersion, migrationId, channel, ticket };
    const pageSources = pages?.sha256s ?? [];
    const placedMemory = memory?.name ?? "";
    try {
      await receiver.run({ ...open, codecs, pageSources, placedMemory, tellsTaken: true }, signal);
    } finally {
      call.close();
    }
  }

  async #open(signal: AbortSignal): Promise<PullRequest> {
    const { openers } = this.#options;
    const { windowBytes } = this.#limits;
    let fault: Fault | undefined;
    for (let turn = 0; turn < openers.length; turn++) {
      const index = (this.#preferred + turn) % openers.length;
      const opener = openers[index];
      if (!opener) break;
      try {
        const call = await opener.open(windowBytes, signal);
        this.#preferred = index;
        return call;
      } catch (thrown) {
        if (!isFault(thrown, "unavailable") || signal.aborted) throw thrown;
        this.#log.warn("move.way-closed", { way: opener.name, fault: thrown });
        fault = thrown;
      }
    }
    throw fault ?? new Fault("invalid", "there is no way to the other host", { reason: "PEER_UNREACHABLE" });
  }
}

/**
 * The source's half of a move: unix sockets for the hypervisor's connections, and the destination's calls that carry
 * them away. It lives as long as the move, whatever passes work on the machine meanwhile.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { EventEmitter, once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { deadline } from "#kernel/retry.ts";
import { unlessAborted } from "#kernel/stall.ts";
import type { HeldSocket, MemoryBacklog } from "../drivers/driver.ts";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { CodecChoice } from "./coding/choice.ts";
import { AdaptiveEncoder } from "./coding/coders.ts";
import type { LostTrials } from "./coding/lost-trials.ts";
import { codingThreads, CodingWorkers } from "./coding/workers.ts";
import { LinkMeter } from "./link-meter.ts";
import { PageScanner } from "./pages/scanner.ts";
import { PageStage, type PageStageOptions } from "./pages/stage.ts";
import { defaultLimits, isDisk, memoryChannel, protocolVersion, type MoveLimits } from "./protocol.ts";
import type { PullCall } from "./pull-call.ts";
import { SourceChannel, type Coding } from "./source-channel.ts";
import { MoveCounters, type MoveStats } from "./stats.ts";
import { Throttle } from "./throttle.ts";
import type { Open } from "./wire.ts";

export interface MoveSourceOptions {
  readonly migrationId: string;
  readonly ticket: Uint8Array;
  /** Who may pull. */
  readonly peerHostId: string;
  readonly expiresAtMs: number;
  readonly channels: readonly string[];
  /** The channels' unix sockets are made here. Short: the kernel takes 107 bytes with the socket's name. */
  readonly socketDirectory: string;
  /** Threads shared with other moves; without them it starts its own. */
  readonly workers?: CodingWorkers;
  /** Of all moves from this host; without it each makes its own trials. */
  readonly lostTrials?: LostTrials;
  /** The image's files, for the page stage. Leave it out for post-copy, whose stream has no such order. */
  readonly pages?: PageStageOptions;
  /** `on`: the fewest bytes whatever they cost; `off`: no page stage and only the fast codec. Default: auto. */
  readonly wanOptimization?: "auto" | "on" | "off";
  readonly limits?: Partial<MoveLimits>;
  readonly log: Logger;
  readonly now?: () => number;
}

export class MoveSource implements AsyncDisposable {
  readonly migrationId: string;
  readonly #options: MoveSourceOptions;
  readonly #channels = new Map<string, SourceChannel>();
  readonly #counters = new MoveCounters();
  readonly #link: LinkMeter;
  readonly #log: Logger;
  readonly #workers: CodingWorkers;
  readonly #working: Disposable;
  readonly #pages: PageStage | undefined;
  readonly #calls = new EventEmitter<{ pull: [] }>();
  #fault: Fault | undefined;

  private constructor(options: MoveSourceOptions) {
    const { migrationId, pages, wanOptimization } = options;
    this.migrationId = migrationId;
    this.#options = options;
    this.#link = new LinkMeter(options.limits?.bytesPerSecond);
    const log = (this.#log = options.log.with({ migrationId }));
    const workers = (this.#workers = options.workers ?? new CodingWorkers({ log }));
    this.#working = workers.use();
    const staged = pages && pages.sources.length > 0 && wanOptimization !== "off";
    this.#pages = staged ? new PageStage({ workers, pages, role: "source", log }) : undefined;
  }

  /** Listens for the hypervisor on every channel. */
  static async open(options: MoveSourceOptions): Promise<MoveSource> {
    const source = new MoveSource(options);
    const limits = { ...defaultLimits, ...options.limits };
    const throttle = new Throttle(limits.bytesPerSecond);
    const shared = { throttle, limits, log: source.#log, counters: source.#counters, link: source.#link };
    try {
      await mkdir(options.socketDirectory, { recursive: true, mode: 0o700 });
      for (const channel of options.channels) {
        const opened = await SourceChannel.open({
          ...shared,
          ...{ channel, slabs: source.#workers.slabs },
          socketPath: join(options.socketDirectory, `${channel.replace(":", "-")}.sock`),
          coding: (open, signal) => source.#coding(open, signal),
          onFault: (fault) => {
            if (!isDisk(channel)) source.#fault = fault;
          },
        });
        source.#channels.set(channel, opened);
      }
    } catch (thrown) {
      await source[Symbol.asyncDispose]();
      throw thrown;
    }
    return source;
  }

  /** Where the hypervisor connects for a channel. */
  socketOf(channel: string): string {
    return this.#find(channel).socketPath;
  }

  /** Nothing of a channel is carried, whoever connects and pulls, until it is released. */
  hold(channel: string): HeldSocket {
    return this.#find(channel).hold();
  }

  /**
   * True once the destination pulls every disk: a hypervisor that connects before that may stand still until it does, and
   * its guest with it. False when it has not come within `limitMs`.
   */
  async awaitPulls(limitMs: number, signal: AbortSignal): Promise<boolean> {
    using limit = deadline(limitMs, "waiting for the other host to pull", signal);
    const disks = [...this.#channels].filter(([name]) => isDisk(name)).map(([, channel]) => channel);
    while (!disks.every(({ isPulled }) => isPulled)) {
      try {
        await unlessAborted(once(this.#calls, "pull", { signal: limit }), limit);
      } catch (thrown) {
        if (signal.aborted || !limit.aborted) throw thrown;
        return false;
      }
    }
    return true;
  }

  /** Undefined for a move without memory. */
  get backlog(): MemoryBacklog | undefined {
    return this.#channels.get(memoryChannel)?.backlog;
  }

  stats(): MoveStats {
    return this.#counters.snapshot();
  }

  /** Why the memory channel failed, when it did: the hypervisor itself only sees that its socket closed. */
  get fault(): Fault | undefined {
    return this.#fault;
  }

  /** Takes a call when its peer and ticket are right. Throws `denied` MOVE_DENIED, which tells nothing more. */
  pull(call: PullCall, open: Open, callerHostId: string): void {
    const { ticket, peerHostId, expiresAtMs, now = Date.now } = this.#options;
    const allowed = equalSecrets(ticket, open.ticket) && callerHostId === peerHostId && now() < expiresAtMs;
    if (!allowed) throw denied();
    if (open.version !== protocolVersion) {
      throw new Fault(
        "conflict",
        `this host speaks version ${String(protocolVersion)} of the move's protocol`,
        {
          reason: "MOVE_VERSION",
          detail: { version: protocolVersion },
        },
      );
    }
    const channel = this.#channels.get(open.channel);
    if (!channel) throw new Fault("notFound", "the move has no such channel", { reason: "CHANNEL_UNKNOWN" });
    channel.pull(call, open);
    this.#calls.emit("pull");
  }

  /** Ends the calls, with a status that says so, and closes the sockets. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const channel of this.#channels.values()) await channel[Symbol.asyncDispose]();
    await this.#pages?.[Symbol.asyncDispose]();
    this.#working[Symbol.dispose]();
  }

  #find(channel: string): SourceChannel {
    const found = this.#channels.get(channel);
    if (found) return found;
    throw new Fault("notFound", `the move has no channel ${channel}`, { reason: "CHANNEL_UNKNOWN" });
  }

  async #coding({ channel, codecs, pageSources, placedMemory }: Open, signal: AbortSignal): Promise<Coding> {
    const { wanOptimization = "auto", lostTrials, peerHostId } = this.#options;
    const stage = isDisk(channel) ? undefined : await this.#pages?.open(signal, pageSources);
    if (stage) this.#counters.pageStage = true;
    const usable =
      wanOptimization === "off"
        ? codecs.filter((codec) => codec === Codec.LZ4)
        : strongestFor(channel, codecs);
    const strong = wanOptimization === "on";
    // A disk's bytes shrink in another way, and its copy is short.
    const lost = isDisk(channel) ? undefined : lostTrials?.towards(peerHostId);
    const choice = new CodecChoice({ codecs: usable, threads: codingThreads, strong, lost });
    const encoder = new AdaptiveEncoder({
      workers: this.#workers,
      slabs: this.#workers.slabs,
      choice,
      link: this.#link,
      sorts: placedMemory !== "",
      pageSet: stage?.pageSet,
      onStageDropped: () => {
        this.#counters.pageStage = false;
        this.#log.info("move.page-stage-dropped", { channel });
      },
    });
    // Without the page stage the stream is read as well: zero pages are counted.
    const scanner = new PageScanner(placedMemory === "" ? undefined : placedMemory);
    return { encoder, scanner: isDisk(channel) ? undefined : scanner };
  }
}

/** Memory is worth remembering what was sent of it; a disk's copy is not, and there may be several. */
function strongestFor(channel: string, codecs: readonly Codec[]): readonly Codec[] {
  const long = !isDisk(channel) && codecs.includes(Codec.ZSTD_LONG);
  const left = long ? Codec.ZSTD : Codec.ZSTD_LONG;
  return codecs.filter((codec) => codec !== left);
}

/** Nobody learns from an answer, or from the time it took, what was wrong. */
export function denied(): Fault {
  return new Fault("denied", "the move may not be pulled by this host", { reason: "MOVE_DENIED" });
}

function equalSecrets(one: Uint8Array, other: Uint8Array): boolean {
  const digest = (secret: Uint8Array) => createHash("sha256").update(secret).digest();
  return timingSafeEqual(digest(one), digest(other));
}

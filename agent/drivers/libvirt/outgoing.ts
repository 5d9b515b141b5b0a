/**
 * One attempt to move a machine away, which libvirt carries out by itself once it is told to: disks first, then memory.
 * Its memory stands at the gate until the guest may be handed over. libvirt keeps the source's guest until the
 * destination has confirmed that all is there, and lets it run on if anything fails before.
 */
import { type Move, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import type { SendProgress } from "../driver.ts";
import { rootTarget } from "./domain-xml.ts";
import { Gate } from "./gate.ts";
import {
  clearMeeting,
  daemonChannel,
  destinationUri,
  diskChannel,
  leadTo,
  type Meeting,
  memoryChannel,
  noteMove,
} from "./meeting.ts";
import { parseStats, statOf } from "./metrics.ts";
import { deriveProgress, isStalled } from "./progress.ts";
import type { Virsh } from "./virsh.ts";

export interface OutgoingOptions {
  readonly uuid: string;
  readonly uri: string;
  readonly move: Move;
  readonly virsh: Virsh;
  readonly meeting: Meeting;
  readonly socketOf: (channel: string) => string;
  readonly log: Logger;
  readonly lifetime: AbortSignal;
}

/** Whoever gave the move up long ago has said so; this only keeps a forgotten one from staying for ever. */
const moveLimitMs = 7 * 24 * 3600_000;
const abortPollMs = 100;
const defaultDowntimeMs = 300;
/** What a guest that must move at any price may be stopped for. */
const forcedDowntimeMs = 60_000;

export class Outgoing {
  readonly migrationId: string;
  readonly #options: OutgoingOptions;
  readonly #gate: Gate;
  readonly #ending: Promise<void>;
  #wake: () => void = () => undefined;
  #end: { readonly fault?: Fault; readonly atMs: number } | undefined;
  #stats: ReadonlyMap<string, string> = new Map();
  #downtimeMs = 0;
  #stoppedAtMs: number | undefined;

  private constructor(options: OutgoingOptions, gate: Gate) {
    this.migrationId = options.move.migrationId;
    this.#options = options;
    this.#gate = gate;
    this.#ending = this.#run();
  }

  /** Tells libvirt to begin. */
  static async begin(options: OutgoingOptions): Promise<Outgoing> {
    const { meeting, socketOf } = options;
    await clearMeeting(meeting);
    await noteMove(meeting, options.move.migrationId);
    for (const channel of [daemonChannel, diskChannel]) await leadTo(meeting, channel, socketOf(channel));
    const wake: { now?: () => void } = {};
    const gate = await Gate.listen(meeting.here(memoryChannel), () => wake.now?.());
    const outgoing = new Outgoing(options, gate);
    wake.now = () => outgoing.#wake();
    return outgoing;
  }

  /** The memory may go, and with its last round the guest. */
  release(socket: string): void {
    this.#gate.open(socket);
  }

  /** libvirt has stopped the guest for its last round. */
  noteStopped(atMs: number): void {
    this.#stoppedAtMs = atMs;
    this.#wake();
  }

  /** It is over and the guest has not left by it. */
  get hasFailed(): boolean {
    return this.#end?.fault !== undefined;
  }

  /** Gives the attempt up; the guest runs on here unless it was already gone. */
  async callOff(signal: AbortSignal): Promise<void> {
    await abortJob(this.#options, () => this.#end !== undefined, signal);
  }

  /** How it stands. Throws what made it fail; the guest runs on here then. */
  async look(signal: AbortSignal): Promise<SendProgress> {
    this.#refuseFailure();
    const stats = await this.#ask(signal);
    if (this.#phase() === "pre-copy") await this.#press(stats, signal);
    // It may have failed while libvirt was asked: an end is a hand-over only if it is not that.
    this.#refuseFailure();
    const { maxDowntimeMs } = this.#options.move;
    const end = this.#end && { atMs: this.#end.atMs - statOf(stats, "downtime") };
    const stoppedAtMs = this.#stoppedAtMs ?? end?.atMs;
    const phase = this.#phase();
    return deriveProgress({ phase, stats, maxDowntimeMs: maxDowntimeMs || defaultDowntimeMs, stoppedAtMs });
  }

  /** How far the job is. A daemon that does not answer leaves it as it was: how the attempt ends is told by its command. */
  async #ask(signal: AbortSignal): Promise<ReadonlyMap<string, string>> {
    const { virsh, uuid, log } = this.#options;
    const completed = this.#end ? ["--completed", "--keep-completed"] : [];
    try {
      const told = await virsh.run(["domjobinfo", uuid, "--rawstats", ...completed], { signal });
      this.#stats = parseStats(told);
    } catch (thrown) {
      if (signal.aborted) throw thrown;
      log.debug("libvirt.job_unknown", { fault: toFault(thrown) });
    }
    return this.#stats;
  }

  #refuseFailure(): void {
    if (this.#end?.fault) throw this.#end.fault;
  }

  /** Waits until something has changed, at most so long. */
  async changed(ms: number, signal: AbortSignal): Promise<void> {
    const enough = new AbortController();
    const woken = new Promise<void>((resolve) => (this.#wake = resolve));
    const limit = AbortSignal.any([signal, enough.signal]);
    try {
      await Promise.race([woken, this.#ending, sleep(ms, limit)]);
    } finally {
      enough.abort();
    }
  }

  #phase(): SendProgress["phase"] {
    if (this.#end) return "handed-over";
    if (this.#stoppedAtMs !== undefined) return "switchover";
    if (!this.#gate.hasKnocked) return "disk-copy";
    return this.#gate.isOpen ? "pre-copy" : "converged";
  }

  /** Tells QEMU how long the guest may stand still, and does what was asked for when that is not to be had. */
  async #press(stats: ReadonlyMap<string, string>, signal: AbortSignal): Promise<void> {
    const { virsh, uuid, move, log } = this.#options;
    const stalled = isStalled(stats);
    if (
      stalled &&
      move.onUnreachable !== OnUnreachable.FORCE &&
      move.onUnreachable !== OnUnreachable.THROTTLE
    ) {
      await this.callOff(signal);
      // It was too late: the guest has gone after all.
      if (!this.hasFailed) return;
      throw new Fault("conflict", "the guest writes faster than the link carries", {
        reason: "MOVE_STALLED",
      });
    }
    const forced = stalled && move.onUnreachable === OnUnreachable.FORCE;
    const wanted = forced ? forcedDowntimeMs : move.maxDowntimeMs || defaultDowntimeMs;
    if (wanted === this.#downtimeMs) return;
    this.#downtimeMs = wanted;
    try {
      await virsh.run(["migrate-setmaxdowntime", uuid, String(wanted)], { signal });
    } catch (thrown) {
      if (signal.aborted) throw thrown;
      // There is no job any more, or nobody answers: the next look tells.
      log.debug("libvirt.downtime_not_set", { fault: toFault(thrown) });
      this.#downtimeMs = 0;
    }
  }

  async #run(): Promise<void> {
    const { virsh, lifetime } = this.#options;
    try {
      await virsh.run(migrateCommand(this.#options), { signal: lifetime, timeoutMs: moveLimitMs });
      this.#end = { atMs: Date.now() };
    } catch (thrown) {
      this.#end = { fault: moveFault(thrown), atMs: Date.now() };
    } finally {
      await this.#gate[Symbol.asyncDispose]();
      this.#wake();
    }
  }
}

const abortLimitMs = 60_000;

/** Has libvirt give a job up, until it is over. */
export async function abortJob(
  { virsh, uuid, log }: Pick<OutgoingOptions, "virsh" | "uuid" | "log">,
  isOver: () => boolean | Promise<boolean>,
  signal: AbortSignal,
): Promise<void> {
  using limit = deadline(abortLimitMs, "calling the move off", signal);
  for (let attempt = 0; !(await isOver()); attempt++) {
    await virsh.run(["domjobabort", uuid], { signal: limit }).catch((thrown: unknown) => {
      // There is no job yet, or none any more: the end tells which.
      log.debug("libvirt.no_job", { attempt, fault: toFault(thrown) });
    });
    await sleep(abortPollMs, limit);
  }
}

/** The one command that does it all; the guest arrives paused. Pure. */
export function migrateCommand({
  uuid,
  uri,
  move,
  meeting,
}: Pick<OutgoingOptions, "uuid" | "uri" | "move" | "meeting">): string[] {
  const slowly = move.onUnreachable === OnUnreachable.THROTTLE ? ["--auto-converge"] : [];
  const how = ["--live", "--p2p", "--persistent", "--suspend", "--copy-storage-inc", ...slowly];
  return [
    ...["migrate", uuid, ...how, "--migrate-disks", rootTarget],
    ...["--desturi", destinationUri(uri, meeting.there(daemonChannel))],
    ...["--migrateuri", `unix:${meeting.there(memoryChannel)}`],
    ...["--disks-uri", `unix:${meeting.there(diskChannel)}`],
  ];
}

function moveFault(thrown: unknown): Fault {
  const fault = toFault(thrown);
  if (fault.reason === "LIBVIRT_UNREACHABLE" || fault.reason === "AGENT_STOPPING") return fault;
  return new Fault("conflict", "libvirt could not move the machine", {
    reason: "MOVE_ABORTED",
    cause: thrown,
  });
}

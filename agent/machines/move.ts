/**
 * A machine's part in a move between hosts. The streams belong to the migration and not to a pass: passes come and go
 * with the commands, and each looks at how far the move is and carries on.
 *
 * A move that failed here is over here: only another migration tries again. What makes it safe: a source is never
 * started anew once it was told that it may hand over, and a destination is started by nothing in this file.
 */
import { Fault, isFault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { cancelled } from "#kernel/stall.ts";
import { type Move, MovePhase, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import type { LiveMigration, MachineDriver, MachinePlan } from "../drivers/driver.ts";
import type { Ledger } from "./ledger.ts";
import type { PullTiming } from "./machine-deps.ts";
import type { MachineStatus } from "./machine-status.ts";
import { isSource, MoveJournal } from "./move-journal.ts";
import type { MoveOffer, MovePull, MoveTransport } from "./move-transport.ts";
import { Waiters } from "./waiters.ts";

export interface MachineMoveDeps {
  readonly id: string;
  readonly driver: MachineDriver;
  readonly ledger: Ledger;
  readonly status: MachineStatus;
  /** Undefined: this host takes no part in moves. */
  readonly transport: MoveTransport | undefined;
  readonly pulls: PullTiming;
  readonly log: Logger;
  readonly now: () => number;
  /** The move came to a point that somebody may wait for. */
  readonly onMilestone: () => void;
}

/** How often the destination looks, besides when the driver says that something changed. */
const lookMs = 250;
/** How often it tells how much has come when nothing else is new: it is the source that tells how the move goes. */
const trafficMs = 1_000;
/** All channels have ended in order: the machine is whole within this, or never. */
const arrivalLimitMs = 15_000;

export class MachineMove {
  readonly #deps: MachineMoveDeps;
  readonly #noticed = new Waiters();
  #journal: MoveJournal | undefined;
  #offer: MoveOffer | undefined;
  #pull: (MovePull & { end: { readonly fault?: Fault } | undefined }) | undefined;
  #letGo: Promise<unknown> = Promise.resolve();

  constructor(deps: MachineMoveDeps) {
    this.#deps = deps;
    const told = deps.ledger.find(deps.id)?.progress.move;
    if (!told) return;
    this.#journal = new MoveJournal(told, deps.now);
    deps.status.move = told;
  }

  /** True when the move has come as far as the sender of this intent waits for. */
  hasAnswer(move: Move): boolean {
    const journal = this.#journal;
    if (!journal?.isOf(move)) return false;
    if (journal.isOver) return true;
    const { phase } = journal.status;
    if (move.committed || (isSource(move) && move.switchOver)) return phase === MovePhase.POST_COPY;
    return phase !== MovePhase.PREPARING;
  }

  /** True when nothing is left to do for this move before the next command. */
  isOver(move: Move): boolean {
    return this.#journal?.isOf(move) === true && this.#journal.isOver;
  }

  /** True when the machine is to run here as if it had never been asked to move. */
  mayRun(move: Move): boolean {
    if (!this.#journal?.isOf(move) || this.#journal.status.phase !== MovePhase.FAILED) return false;
    // A guest that lost memory in post-copy has a disk, and nobody else has it.
    if (move.committed || !isSource(move)) return move.committed && !isSource(move);
    // After an agent's death nobody knows whether it handed over: what stands still then waits for a command.
    return !move.switchOver || this.#deps.status.observed?.state === "running";
  }

  /** True when the guest does not run here and will not without another command. */
  standsStill(move: Move): boolean {
    if (!isSource(move)) return !move.committed;
    const phase = this.#journal?.isOf(move) ? this.#journal.status.phase : undefined;
    return phase === MovePhase.HANDED_OVER || phase === MovePhase.POST_COPY;
  }

  /**
   * Brings the move as far as it can come under this intent. A move that fails is told and not thrown.
   * @param sinceMs when the intent was accepted, if known
   */
  async advance(move: Move, plan: MachinePlan, signal: AbortSignal, sinceMs?: number): Promise<void> {
    const journal = await this.#open(move);
    if (journal.isOver) return;
    try {
      if (isSource(move)) await this.#send(journal, move, plan, signal);
      else await this.#receive(journal, move, plan, signal, sinceMs);
    } catch (thrown) {
      const fault = toFault(thrown);
      const isEarly = journal.status.phase === MovePhase.PREPARING;
      // What is committed has no other way than on.
      if (signal.aborted || (fault.retryable && (isEarly || move.committed))) throw fault;
      await this.fail(move, fault);
    }
  }

  /** The move is over and has come to nothing. */
  async fail(move: Move, fault: Fault): Promise<void> {
    const { id, driver, status, log } = this.#deps;
    const journal = await this.#open(move);
    if (journal.status.phase === MovePhase.FAILED) return;
    log.warn("move.failed", { machine: id, migration: move.migrationId, fault });
    status.observed = await driver.inspect(id);
    journal.fail(fault);
    this.#cut();
    await this.#tell(journal);
    if (move.committed && !isSource(move)) await driver.liveMigration?.postCopy?.giveUp(id);
  }

  /** Something happened to the machine: whoever waits for its arrival looks again. */
  notice(): void {
    this.#noticed.release();
  }

  /** The machine's process ended while nothing was being done. One that had arrived whole is lost. */
  async noticeEnd(move: Move): Promise<void> {
    if (!isSource(move) && move.type !== MoveType.COLD) await this.fail(move, lost());
  }

  /**
   * Nobody waits for the rest of a guest's memory any more. True when that is not here: its machine ends, as in a
   * crash.
   */
  async giveUpRest(): Promise<boolean> {
    const { id, driver } = this.#deps;
    const journal = this.#journal;
    const live = driver.liveMigration;
    if (!journal || journal.isOver || isSource(journal.status) || !live?.postCopy) return false;
    if ((await live.hasArrived(id)) || !(await live.postCopy.giveUp(id))) return false;
    journal.fail(memoryLost());
    this.#cut();
    await this.#tell(journal);
    return true;
  }

  /** The machine is to go on here: a connection that is open but silent would hold the end of its disk's copy up. */
  async hangUp(): Promise<void> {
    if (!this.#offer) return;
    this.#cut();
    await this.#letGo;
  }

  /** The machine does what an intent without a move says. @param sinceMs when that was accepted, if known */
  conclude(sinceMs: number | undefined): void {
    const { id, ledger, status, now } = this.#deps;
    const journal = this.#journal;
    this.#cut();
    if (!journal || journal.status.phase === MovePhase.FAILED || journal.status.resumedAtMs > 0n) return;
    if (isSource(journal.status)) journal.fail(calledOff());
    else journal.resumed(now(), sinceMs === undefined ? 0 : now() - sinceMs);
    status.move = journal.status;
    ledger.noteSoon(id, { move: journal.status });
  }

  /** The machine is gone, or the agent ends: the connections with it. */
  async close(): Promise<void> {
    this.#cut();
    await this.#letGo;
  }

  forget(): void {
    this.#journal = undefined;
    this.#deps.status.move = undefined;
  }

  async #open(move: Move): Promise<MoveJournal> {
    const { id, ledger, now } = this.#deps;
    if (this.#journal?.isOf(move)) {
      // Carried on by another life of the agent: what it had is to be made again.
      const { isOver, status } = this.#journal;
      const isMade = isOver || this.#offer !== undefined || this.#pull !== undefined;
      if (!isMade && status.phase !== MovePhase.POST_COPY) this.#journal.enter(MovePhase.PREPARING);
      return this.#journal;
    }
    this.#cut();
    this.#journal = MoveJournal.begin(move, now);
    await ledger.note(id, { move: this.#journal.status });
    this.#deps.status.showMove(this.#journal.status);
    return this.#journal;
  }

  async #send(journal: MoveJournal, move: Move, plan: MachinePlan, signal: AbortSignal): Promise<void> {
    const { live, transport } = this.#require(move);
    if (!this.#offer) {
      const channels = await live.listChannels(plan.id);
      this.#offer = await transport.offer({ move, plan, channels });
    }
    const offer = this.#offer;
    try {
      // The guest stands still while its hypervisor connects.
      if (!journal.hasBegun) await this.#awaitPulls(move, plan, { live, offer }, signal);
      const socketOf = (channel: string) => offer.socketOf(channel);
      for await (const progress of live.send(plan, socketOf, signal, offer.backlog)) {
        journal.progress(progress, offer.stats());
        if (progress.stoppedAtMs !== undefined) this.#showStopped();
        await this.#tell(journal);
      }
    } catch (thrown) {
      throw isFault(thrown, "unavailable") ? (offer.fault ?? thrown) : thrown;
    }
    // A post-copy waits for its commit.
    const isOffered = journal.status.phase === MovePhase.POST_COPY && !move.committed;
    if (!journal.isOver && !isOffered)
      throw new Fault("internal", "the driver stopped sending before the machine had left");
  }

  /** The other host may take long to get ready, and this one may lose the guest meanwhile. */
  async #awaitPulls(
    { type }: Move,
    plan: MachinePlan,
    { live, offer }: { readonly live: LiveMigration; readonly offer: MoveOffer },
    signal: AbortSignal,
  ): Promise<void> {
    const { id, driver, status, pulls } = this.#deps;
    const getReady = () => live.getReady?.(plan, (channel) => offer.hold(channel), signal);
    await getReady();
    const since = performance.now();
    let isLate = false;
    while (!(await offer.awaitPulls(pulls.lookMs, signal))) {
      if (signal.aborted) throw cancelled(signal);
      status.observed = await driver.inspect(id);
      if (type !== MoveType.COLD && !status.isRunning) throw ended();
      const waitedMs = performance.now() - since;
      if (waitedMs > pulls.mostMs) throw notPulled();
      if (!isLate && waitedMs > pulls.soonMs) await getReady();
      isLate ||= waitedMs > pulls.soonMs;
    }
  }

  /** Known from the driver's own word: to ask again would be part of the time that the guest stands still. */
  #showStopped(): void {
    const { status } = this.#deps;
    if (status.observed?.state === "running") status.observed = { ...status.observed, state: "paused" };
  }

  async #receive(
    journal: MoveJournal,
    move: Move,
    plan: MachinePlan,
    signal: AbortSignal,
    sinceMs: number | undefined,
  ): Promise<void> {
    const { id, driver, ledger, status, now } = this.#deps;
    const { live, transport } = this.#require(move);
    // It arrives as it is: restarts that were asked for before are not for this host to make.
    await ledger.note(id, { restarts: plan.spec.restarts });
    const channels = await live.receive(plan, signal);
    if (!this.#pull && !(await live.hasArrived(id))) {
      const connect = (channel: string, until: AbortSignal) => live.connectChannel(id, channel, until);
      const ready = async (channel: string, until: AbortSignal) => live.readyChannel?.(id, channel, until);
      const memory = async (until: AbortSignal) => live.openMemory?.(id, until);
      this.#watch(transport.pull({ move, plan, channels, ready, memory, connect }));
    }
    if (move.committed) {
      this.#pull?.enterPostCopy();
      await live.postCopy?.run(plan, signal);
    }
    status.observed = await driver.inspect(id);
    status.activity = undefined;
    journal.takes(status.observed?.baseline ?? "");
    if (journal.status.phase === MovePhase.PREPARING) journal.enter(MovePhase.READY);
    await this.#tell(journal);
    const onRun = () => journal.runs(now(), sinceMs === undefined ? 0 : now() - sinceMs);
    await this.#awaitArrival(journal, move, live, signal, onRun);
  }

  async #awaitArrival(
    journal: MoveJournal,
    move: Move,
    live: LiveMigration,
    signal: AbortSignal,
    onRun: () => void,
  ): Promise<void> {
    const { id, driver, status } = this.#deps;
    const startsNow = () => move.committed && journal.status.resumedAtMs === 0n;
    let endedAt: number | undefined;
    let countedAt = -Infinity;
    while (!(await live.hasArrived(id))) {
      status.observed = await driver.inspect(id);
      if (this.#pull && performance.now() - countedAt >= trafficMs) {
        countedAt = performance.now();
        journal.traffic(this.#pull.stats());
      }
      if (startsNow() && status.observed?.state === "running") onRun();
      await this.#tell(journal);
      if (move.type !== MoveType.COLD && !status.isRunning) {
        // Its channels end with it, and say more than that it is gone.
        if (this.#pull && !this.#pull.end) await this.#noticed.wait(lookMs, signal);
        throw this.#pull?.end?.fault ?? lost();
      }
      if (this.#pull?.end) {
        endedAt ??= performance.now();
        const { fault } = this.#pull.end;
        const isLate = performance.now() - endedAt > (fault ? lookMs : arrivalLimitMs);
        if (isLate) throw fault ?? lost();
      }
      await this.#noticed.wait(lookMs, signal);
      if (signal.aborted) throw cancelled(signal);
    }
    if (this.#pull) journal.traffic(this.#pull.stats());
    if (startsNow()) onRun();
    journal.enter(MovePhase.HANDED_OVER);
    await this.#tell(journal);
  }

  #watch(pull: MovePull): void {
    const watched = Object.assign(pull, { end: undefined as { readonly fault?: Fault } | undefined });
    this.#pull = watched;
    pull.ended
      .then(
        () => (watched.end = {}),
        (thrown: unknown) => (watched.end = { fault: toFault(thrown) }),
      )
      .finally(() => this.#noticed.release());
  }

  /** What ends a move is on disk before anybody hears of it. */
  async #tell(journal: MoveJournal): Promise<void> {
    const { id, ledger, status, onMilestone } = this.#deps;
    const isNews = status.move?.phase !== journal.status.phase;
    if (journal.isOver || (isNews && journal.status.phase === MovePhase.POST_COPY))
      await ledger.note(id, { move: journal.status });
    else if (isNews) ledger.noteSoon(id, { move: journal.status });
    status.showMove(journal.status);
    if (isNews) onMilestone();
  }

  /** Lets go of the connections, without waiting: a guest may be waiting to run. */
  #cut(): void {
    const { log, id } = this.#deps;
    const held = [this.#offer, this.#pull].filter((stream) => stream !== undefined);
    this.#offer = this.#pull = undefined;
    if (held.length === 0) return;
    const letGo = Promise.all([this.#letGo, ...held.map((stream) => stream[Symbol.asyncDispose]())]);
    this.#letGo = letGo.catch((fault: unknown) => log.error("move.close", { machine: id, fault }));
  }

  #require({ type }: Move): { readonly live: LiveMigration; readonly transport: MoveTransport } {
    const { driver, transport } = this.#deps;
    const live = driver.liveMigration;
    if (type === MoveType.POSTCOPY && !live?.postCopy)
      throw new Fault("conflict", "guests of this host cannot run before their memory has arrived", {
        reason: "POSTCOPY_UNSUPPORTED",
      });
    if (live && transport) return { live, transport };
    throw new Fault("conflict", "machines of this host cannot be moved", { reason: "MOVE_UNSUPPORTED" });
  }
}

function lost(): Fault {
  return new Fault("conflict", "what had arrived of the machine is gone", { reason: "MOVE_LOST" });
}

function ended(): Fault {
  return new Fault("conflict", "the machine ended before it was sent", { reason: "MACHINE_NOT_RUNNING" });
}

function notPulled(): Fault {
  return new Fault("conflict", "the other host did not come for the machine", { reason: "MOVE_NOT_PULLED" });
}

function memoryLost(): Fault {
  return new Fault("conflict", "the rest of the guest's memory did not come", { reason: "MEMORY_LOST" });
}

function calledOff(): Fault {
  return new Fault("conflict", "the move was called off; the machine goes on here", {
    reason: "MOVE_CALLED_OFF",
  });
}

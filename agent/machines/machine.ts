/**
 * One machine's work: a single loop that brings it to the newest intent in the ledger. What arrives
 * (commands, the driver's events, the end of a wait) only marks that there is something to do; the loop
 * looks at what is true now. So nothing is lost when several arrive at once or the agent restarts.
 */
import { Fault, isFault, toFault } from "#kernel/fault.ts";
import { backoffMs } from "#kernel/retry.ts";
import { type Machine, type MachineSpec, MachineState, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import type { Move } from "#gen/skerry/agent/v1/migration_pb.js";
import type { CopyProgress, DriverMachine, MachineEvent } from "../drivers/driver.ts";
import { Capture, copyWaitMs, diskCopiesOf, interrupted } from "./capture.ts";
import { gpuUnavailable } from "./devices.ts";
import { type Halt, type Intent, isTombstone, type LedgerEntry } from "./entry.ts";
import type { MachineDeps } from "./machine-deps.ts";
import { MachineStatus } from "./machine-status.ts";
import { fenced, lost, superseded } from "./machine-faults.ts";
import { isSource } from "./move-journal.ts";
import { MachineMove } from "./move.ts";
import { Provisions } from "./provisions.ts";
import { dropKept, removeFromHost } from "./removal.ts";
import { answerEnd, isUnanswered, waitsForRoom } from "./restart-policy.ts";
import { isSame, unplugged, withoutMove } from "./spec.ts";
import { Waiters } from "./waiters.ts";

/** How often a guest that stands still is tried again, as attempts of the backoff. */
const stuckAttempt = 2;
const { STARTING, PAUSED, STOPPING, STOPPED, FAILED } = MachineState;

export class ManagedMachine {
  readonly id: string;
  readonly #deps: MachineDeps;
  readonly #idle = new Waiters();
  readonly #status: MachineStatus;
  readonly #move: MachineMove;
  readonly #provisions: Provisions;
  readonly #capture = new Capture();
  #accepting = 0;
  #acceptedAtMs: number | undefined;
  #attempt = 0;
  #unconverged = false;
  #event: MachineEvent | undefined;
  #dropping = false;
  #pass: AbortController | undefined;
  #working: Promise<void> | undefined;
  #wait: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(id: string, deps: MachineDeps) {
    this.id = id;
    this.#deps = deps;
    const { driver, ledger, changes, now, log, timing, moves: transport } = deps;
    const { progressMs, pulls } = timing;
    const status = (this.#status = new MachineStatus({
      ...{ id, driver: driver.name, ledger, changes, now, progressMs },
    }));
    this.#provisions = new Provisions(id, deps, status);
    const onMilestone = () => this.#answer();
    this.#move = new MachineMove({ id, driver, ledger, status, transport, pulls, log, now, onMilestone });
  }

  /** Nothing left to remember but the tombstone. */
  get isGone(): boolean {
    const entry = this.#deps.ledger.find(this.id);
    return entry !== undefined && isTombstone(entry) && !this.#working && this.#accepting === 0;
  }

  /** The machine as last told; undefined when there is none. */
  get view(): Machine | undefined {
    return this.#status.view;
  }

  /** What recovery found of it. */
  adopt(observed: DriverMachine | undefined): void {
    this.#status.observed = observed;
    this.#status.tell();
    // What ended while nobody looked is answered as if somebody had: work that is done is not done again.
    const entry = this.#deps.ledger.find(this.id);
    if (observed?.ended && entry && isUnanswered(entry, observed.ended.at))
      this.notice({ id: this.id, type: "ended", ...observed.ended });
    else this.#converge();
  }

  /** Records the intent, then works towards it. The newest wins: work on another content is given up. */
  async accept(intent: Intent): Promise<void> {
    this.#accepting++;
    try {
      const before = this.#deps.ledger.find(this.id)?.intent;
      const arrivedAtMs = this.#deps.now();
      const verdict = await this.#deps.ledger.accept(this.id, intent, (held) => isSame(held, intent));
      if (verdict === "replay") return;
      this.#acceptedAtMs = arrivedAtMs;
      if (!before || !isSame(before, intent)) this.#pass?.abort(superseded());
    } finally {
      this.#accepting--;
    }
    this.#attempt = 0;
    // What became of the last intent says nothing about this one.
    if (this.#pass) this.#status.tell();
    else this.#status.settle();
    this.#converge();
  }

  /** The driver says that something happened. */
  notice(event: MachineEvent): void {
    // The end of a machine tells more than a change of it, and must not be covered by one.
    if (event.type === "ended" || this.#event?.type !== "ended") this.#event = event;
    this.#move.notice();
    this.#work();
  }

  /** Copies its disk into a new file, as {@link DiskCopies} does; gives way to all else. */
  async copyDisk(path: string, progress: CopyProgress, signal: AbortSignal): Promise<void> {
    await this.settled(copyWaitMs, signal);
    const entry = this.#deps.ledger.find(this.id);
    const spec = entry?.intent.spec;
    if (!entry || !spec || !this.#status.observed) throw lost();
    if (this.#working || this.#wait || spec.move) throw interrupted();
    const plan = this.#provisions.plan(entry, withoutMove(spec));
    const copies = diskCopiesOf(this.#deps.driver, plan);
    await this.#capture.run((until) => copies.copyDisk(plan, path, progress, until), signal);
  }

  /** Deletes the disks that were kept of it, unless it has come back. */
  dropKept(): void {
    this.#dropping = true;
    this.#work();
  }

  /** Waits until there is nothing to do, or the move is where its sender wants it; at most `limitMs`. */
  async settled(limitMs: number, signal: AbortSignal): Promise<void> {
    if ((this.#working || this.#wait) && !this.#isAnswered) await this.#idle.wait(limitMs, signal);
  }

  /** True when it may run only while the host's lease holds. */
  get isBound(): boolean {
    return (this.#deps.ledger.find(this.id)?.intent.spec?.leaseTerms ?? 0n) > 0n;
  }

  get runsBound(): boolean {
    return this.isBound && this.#status.isRunning;
  }

  /** The lease has changed: one that is bound to it looks again, whatever it is about. */
  followLease(): void {
    const { spec } = this.#deps.ledger.find(this.id)?.intent ?? {};
    if (!spec || spec.leaseTerms === 0n) return;
    if (this.#isFenced(spec)) this.#pass?.abort(superseded());
    this.#converge();
  }

  /** The host's devices are not what they were: one that waits for some looks again, one that has some tells of them. */
  followDevices(): void {
    if (this.#status.activity?.reason === gpuUnavailable) this.#converge();
    else if (this.#status.observed?.container?.gpus.length) this.notice({ id: this.id, type: "changed" });
  }

  /** Ends the work, not the machine. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#wait);
    this.#pass?.abort(new Fault("unavailable", "the agent is stopping", { reason: "AGENT_STOPPING" }));
    await this.#working;
    await this.#capture.giveWay();
    await this.#move.close();
    this.#idle.release();
  }

  /** Pulls the plug and leaves the intent, so that the next start of the agent turns it on again. */
  async pullPlug(signal: AbortSignal): Promise<void> {
    const entry = this.#deps.ledger.find(this.id);
    const { spec } = entry?.intent ?? {};
    if (!entry || !spec || !this.#status.isRunning) return;
    // What was here before us is not ours to turn off when we go.
    if (spec.adoption) return;
    // What stands still between two hosts is neither's to turn off.
    if (spec.move && (!isSource(spec.move) || spec.move.switchOver)) return;
    // On record before it ends: it is we who end it, and nothing of it that has done its work.
    if (spec.container) await this.#deps.ledger.note(this.id, { generationReached: 0n });
    const off = unplugged(spec);
    await this.#deps.driver.ensure(this.#provisions.plan(entry, off), signal);
  }

  get #isAnswered(): boolean {
    const move = this.#deps.ledger.find(this.id)?.intent.spec?.move;
    return move !== undefined && this.#move.hasAnswer(move);
  }

  /** The move has come to a point that whoever gave the command may wait for; the work goes on. */
  #answer(): void {
    const { intent } = this.#deps.ledger.find(this.id) ?? {};
    if (!intent?.spec?.move || !this.#isAnswered) return;
    this.#deps.ledger.noteSoon(this.id, { generationReached: intent.fence.generation });
    this.#status.tell();
    this.#idle.release();
  }

  #converge(): void {
    clearTimeout(this.#wait);
    this.#wait = undefined;
    this.#unconverged = true;
    this.#work();
  }

  #work(): void {
    if (this.#working || this.#closed) return;
    this.#working = this.#loop()
      .catch((thrown: unknown) => this.#giveUp(toFault(thrown)))
      .finally(() => {
        this.#working = undefined;
        // Something may have come between the loop's last look and now.
        if (this.#unconverged || this.#event || this.#dropping) this.#work();
        else if (!this.#wait) this.#idle.release();
      });
  }

  async #loop(): Promise<void> {
    while (!this.#closed) {
      if (this.#unconverged) {
        this.#unconverged = false;
        await this.#runPass();
      } else if (this.#event) {
        const event = this.#event;
        this.#event = undefined;
        await this.#look(event);
      } else if (this.#dropping) {
        this.#dropping = false;
        await dropKept(this.#deps, this.id);
      } else return;
    }
  }

  async #runPass(): Promise<void> {
    const entry = this.#deps.ledger.find(this.id);
    if (!entry || isTombstone(entry)) return;
    await this.#capture.giveWay();
    const pass = (this.#pass = new AbortController());
    const startedMs = this.#deps.now();
    const { epoch, generation } = entry.intent.fence;
    const facts = { machine: this.id, epoch, generation, attempt: this.#attempt };
    try {
      if (entry.intent.spec) await this.#toward(entry, entry.intent.spec, pass.signal);
      else await this.#remove(entry, pass.signal);
      this.#attempt = 0;
      this.#deps.log.info("machine.pass", { ...facts, ms: this.#deps.now() - startedMs });
    } catch (thrown) {
      this.#status.observed = await this.#deps.driver.inspect(this.id); // half done: see how far it came
      if (pass.signal.aborted) return; // a newer intent or the agent's end is why; both are dealt with
      const fault = toFault(thrown);
      this.#deps.log.warn("machine.pass", { ...facts, ms: this.#deps.now() - startedMs, fault });
      await this.#retryOrGiveUp(fault);
    } finally {
      this.#pass = undefined;
    }
  }

  async #toward(entry: LedgerEntry, wanted: MachineSpec, signal: AbortSignal): Promise<void> {
    const { driver, ledger } = this.#deps;
    const { intent, progress } = entry;
    if (this.#isFenced(wanted)) return this.#fence(entry, wanted, signal);
    if (wanted.move && !(await this.#advance(entry, wanted, wanted.move, signal)))
      return this.#status.settle();
    if (!wanted.move && (await this.#move.giveUpRest())) {
      // What becomes of the machine is the restart policy's business.
      ledger.noteSoon(this.id, { generationReached: intent.fence.generation });
      return this.#status.settle();
    }
    await this.#move.hangUp();
    const spec = withoutMove(wanted);
    const on = spec.power === Power.ON;
    const { halt } = progress;
    if (halt && on) {
      if (intent.fence.generation <= halt.generation) return this.#rest(halt);
      ledger.noteSoon(this.id, { halt: undefined });
    }
    if (!this.#status.observed && intent.fence.generation <= progress.generationReached) throw lost();
    await this.#provisions.provide(entry, spec, signal);
    if (on && spec.restarts > progress.restarts && this.#status.isRunning) {
      this.#status.show(STOPPING);
      this.#status.observed = await driver.ensure(
        this.#provisions.plan(entry, { ...spec, power: Power.OFF }),
        signal,
      );
    }
    // Noted while it is off: a restart of the agent from here on starts it and does not stop it again.
    if (spec.restarts > progress.restarts) await ledger.note(this.id, { restarts: spec.restarts });
    if (on !== this.#status.isRunning) this.#status.show(on ? STARTING : STOPPING);
    this.#status.observed = await driver.ensure(this.#provisions.plan(entry, spec), signal);
    if (!wanted.move) this.#move.conclude(this.#acceptedAtMs);
    ledger.noteSoon(this.id, { generationReached: intent.fence.generation });
    if (!this.#retryStuck()) this.#status.settle();
  }

  /** It may run elsewhere by now, and only the control plane knows. What stands still between two hosts does no harm. */
  #isFenced({ leaseTerms, power, move }: MachineSpec): boolean {
    if (leaseTerms === 0n || power !== Power.ON || this.#deps.lease?.holds) return false;
    return !move || !this.#move.standsStill(move);
  }

  /** Pulls the plug. The intent stays: with a new lease the machine is turned on again, unless it was taken away. */
  async #fence(entry: LedgerEntry, spec: MachineSpec, signal: AbortSignal): Promise<void> {
    await this.#move.hangUp();
    if (this.#status.isRunning) {
      this.#status.show(STOPPING, ...fenced);
      const off = unplugged(spec);
      try {
        this.#status.observed = await this.#deps.driver.ensure(this.#provisions.plan(entry, off), signal);
      } catch (fault) {
        if (signal.aborted) throw fault;
        this.#deps.log.error("machine.not-fenced", { machine: this.id, fault });
        return this.#later(0, STOPPING, ...fenced); // never given up
      }
      this.#deps.log.warn("machine.fenced", { machine: this.id });
    }
    this.#status.show(STOPPED, ...fenced);
  }

  /**
   * Brings the intent's move as far as it can come. False: that is all for now. True: it came to nothing here, and
   * the machine is to go on as if it had never been asked to move.
   */
  async #advance(entry: LedgerEntry, spec: MachineSpec, move: Move, signal: AbortSignal): Promise<boolean> {
    const wasRunning = this.#status.isRunning;
    if (!this.#move.isOver(move)) {
      // A source has its files; a destination gets them as any new machine does.
      if (!isSource(move)) await this.#provisions.provide(entry, spec, signal);
      await this.#move.advance(move, this.#provisions.plan(entry, spec), signal, this.#acceptedAtMs);
    }
    // A machine that ended on the way is the restart policy's business, as ever.
    return this.#move.mayRun(move) && (this.#status.isRunning || !wasRunning);
  }

  async #remove(entry: LedgerEntry, signal: AbortSignal): Promise<void> {
    this.#status.show(STOPPING);
    await this.#move.close();
    await removeFromHost(this.#deps, entry, signal);
    this.#move.forget();
    this.#status.forget();
  }

  /** Looks at what an event was about. An end that nobody asked for is answered by the restart policy. */
  async #look(event: MachineEvent): Promise<void> {
    const { driver, ledger, log, now, timing } = this.#deps;
    this.#status.observed = await driver.inspect(this.id);
    this.#status.tell();
    const entry = ledger.find(this.id);
    const { spec } = entry?.intent ?? {};
    if (!entry || spec?.power !== Power.ON || this.#wait) return;
    if ((!spec.move && this.#retryStuck()) || this.#status.isRunning) return;
    if (this.#isFenced(spec)) return this.#status.show(STOPPED, ...fenced);
    if (spec.move && !this.#move.mayRun(spec.move)) await this.#move.noticeEnd(spec.move);
    if (spec.move && !this.#move.mayRun(spec.move)) return;
    if (!this.#status.observed) return this.#converge();
    if (event.type !== "ended") return;

    const { clean, detail } = event;
    const { note, answer } = answerEnd(entry, spec.restartPolicy, clean, now(), timing.restarts);
    log.warn("machine.ended", { machine: this.id, clean, detail, ...answer });
    ledger.noteSoon(this.id, note);
    if (answer.do === "rest") this.#rest(answer.halt);
    else if (answer.do === "give-up") this.#status.show(FAILED, "CRASH_LOOP", answer.message);
    else this.#later(answer.attempt, STARTING, answer.reason, "the machine ended");
  }

  async #retryOrGiveUp(fault: Fault): Promise<void> {
    const mayPass = fault.retryable && this.#attempt + 1 < this.#deps.timing.attempts;
    const entry = this.#deps.ledger.find(this.id);
    if (!mayPass && !(entry && waitsForRoom(entry, fault))) return this.#giveUp(fault);
    const state = this.#status.activity?.state ?? STARTING;
    this.#later(this.#attempt++, state, fault.reason, fault.message);
  }

  async #giveUp(fault: Fault): Promise<void> {
    if (isFault(fault, "internal")) this.#deps.log.error("machine.bug", { machine: this.id, fault });
    const move = this.#deps.ledger.find(this.id)?.intent.spec?.move;
    if (move) await this.#move.fail(move, fault);
    this.#status.show(FAILED, fault.reason, fault.message);
  }

  #rest({ reason, message }: Halt): void {
    this.#status.show(STOPPED, reason, message);
  }

  /** True when the guest stands still though it should not; it is tried again by and by. */
  #retryStuck(): boolean {
    const { stuck } = this.#status.observed ?? {};
    if (stuck) this.#later(stuckAttempt, PAUSED, stuck.reason, stuck.message);
    return stuck !== undefined;
  }

  /** Converges again after a wait, and says so meanwhile. */
  #later(attempt: number, state: MachineState, reason: string, why: string): void {
    if (this.#closed || this.#unconverged) return;
    const waitMs = backoffMs(attempt, this.#deps.timing.backoff);
    this.#wait = setTimeout(() => this.#converge(), waitMs);
    this.#status.show(state, reason, `${why}; trying again in ${(waitMs / 1000).toFixed(1)} s`);
  }
}

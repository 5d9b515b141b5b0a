/**
 * A QEMU that runs, and our hold on it: one monitor session, watched until the process ends. The session's end is how we
 * learn of the process's, within milliseconds and without polling; a session lost while QEMU lives on is opened again.
 */
import { stat } from "node:fs/promises";
import type { QmpCommand, QmpCommands, QmpEvent } from "#agent/qmp/commands.ts";
import { QmpSession } from "#agent/qmp/session.ts";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import { connectSocket, monitorSocketNames } from "../hypervisor/files.ts";
import { findProcess, processGone, type ProcessIdentity } from "./process.ts";

export interface MachineEnd {
  /** The guest powered itself off. */
  readonly clean: boolean;
  readonly detail: string;
}

export interface RunningMachineOptions {
  readonly identity: ProcessIdentity;
  readonly log: Logger;
  /** Ends our hold on it, not the machine. */
  readonly lifetime: AbortSignal;
  onChange(): void;
  onEnd(end: MachineEnd): void;
}

/** Events after which the machine looks different. */
const telling = new Set(["STOP", "RESUME", "MEMORY_DEVICE_SIZE_CHANGE", "BLOCK_IO_ERROR", "POWERDOWN"]);
const attachTimeoutMs = 10_000;
const greetingTimeoutMs = 2_000;
const exitTimeoutMs = 5_000;

export class RunningMachine {
  readonly pid: number;
  readonly startedAt: Date;
  readonly #options: RunningMachineOptions;
  #session: QmpSession;
  #shutdownReason: string | undefined;
  #eventCount = 0;
  readonly #eventWaiters = new Set<() => void>();
  /** When the guest stopped last, by the host's clock; undefined while it runs or when nobody saw it. */
  stoppedAtMs: number | undefined;
  /** Resolves when its process is gone, or our hold on it ended. */
  readonly ended: Promise<void>;

  private constructor(
    found: { readonly pid: number; readonly startedAt: Date },
    session: QmpSession,
    options: RunningMachineOptions,
  ) {
    this.pid = found.pid;
    this.startedAt = found.startedAt;
    this.#session = session;
    this.#options = options;
    this.ended = this.#watch();
  }

  /** Takes hold of the machine's QEMU; undefined when there is none. */
  static async attach(
    options: RunningMachineOptions,
    signal: AbortSignal,
  ): Promise<RunningMachine | undefined> {
    const session = await openMonitor(options.identity, signal);
    if (!session) return undefined;
    const pid = await findProcess(options.identity);
    if (pid !== undefined) {
      // QEMU writes its pid file once, at its start.
      const startedAt = (await stat(options.identity.files.pidFile)).mtime;
      return new RunningMachine({ pid, startedAt }, session, options);
    }
    session[Symbol.dispose]();
    return undefined;
  }

  /** One monitor command. */
  execute<C extends QmpCommand>(
    command: C,
    args: QmpCommands[C]["arguments"],
    signal: AbortSignal,
    timeoutMs?: number,
  ): Promise<QmpCommands[C]["returns"]> {
    return this.#session.execute(command, args, timeoutMs === undefined ? { signal } : { signal, timeoutMs });
  }

  /** A command that is answered even while QEMU hangs in another. */
  urge<C extends "query-yank" | "yank">(
    command: C,
    args: QmpCommands[C]["arguments"],
    signal: AbortSignal,
  ): Promise<QmpCommands[C]["returns"]> {
    return this.#session.execute(command, args, { signal, urgent: true });
  }

  /** How many events there were. Read it before looking at the machine, and no change after the look is missed. */
  get eventCount(): number {
    return this.#eventCount;
  }

  /** Returns once there were more events than `seen`, or after `ms`, or when the machine ended. */
  async eventAfter(seen: number, ms: number, signal: AbortSignal): Promise<void> {
    if (this.#eventCount > seen) return;
    const over = new AbortController();
    const wake = () => over.abort();
    this.#eventWaiters.add(wake);
    void this.ended.then(wake);
    try {
      await sleep(ms, AbortSignal.any([signal, over.signal]));
    } catch (thrown) {
      if (signal.aborted) throw thrown;
    } finally {
      this.#eventWaiters.delete(wake);
    }
  }

  async #watch(): Promise<void> {
    const { identity, lifetime, log } = this.#options;
    try {
      for (;;) {
        for await (const event of this.#session.events(lifetime)) this.#note(event);
        if (lifetime.aborted) break;
        if (await processGone(identity, exitTimeoutMs, lifetime)) return this.#tellEnd();
        log.warn("machine.monitor_lost", { pid: this.pid });
        const session = await openMonitor(identity, lifetime);
        if (!session) return this.#tellEnd();
        this.#session = session;
        this.#options.onChange();
      }
    } catch (thrown) {
      // Only a QEMU that neither answers nor ends gets here; the next `ensure` finds it again by its pid file.
      if (!lifetime.aborted) {
        log.error("machine.watch_failed", { pid: this.pid, fault: toFault(thrown) });
        this.#options.onEnd({ clean: false, detail: "its monitor does not answer" });
      }
    } finally {
      this.#session[Symbol.dispose]();
    }
  }

  #note(event: QmpEvent): void {
    this.#eventCount++;
    for (const wake of this.#eventWaiters) wake();
    if (event.name === "SHUTDOWN") this.#shutdownReason = String(event.data["reason"]);
    if (event.name === "STOP") this.stoppedAtMs = event.atMs;
    if (event.name === "RESUME") this.stoppedAtMs = undefined;
    if (telling.has(event.name)) this.#options.onChange();
  }

  #tellEnd(): void {
    const reason = this.#shutdownReason;
    this.#options.onEnd({
      clean: reason === "guest-shutdown",
      detail: reason === undefined ? "its process was killed or crashed" : `it ended: ${reason}`,
    });
  }
}

/** Opens a monitor that answers. Undefined when the process is gone. A fresh QEMU may need some tries. */
async function openMonitor(identity: ProcessIdentity, signal: AbortSignal): Promise<QmpSession | undefined> {
  const until = performance.now() + attachTimeoutMs;
  let last: Fault | undefined;
  for (let attempt = 0; performance.now() < until; attempt++) {
    if ((await findProcess(identity)) === undefined) return undefined;
    for (const name of monitorSocketNames) {
      try {
        const socket = await connectSocket(identity.files.directory, name, signal);
        return await QmpSession.open(socket, { signal, timeoutMs: greetingTimeoutMs });
      } catch (thrown) {
        last = toFault(thrown);
        if (signal.aborted) throw thrown;
      }
    }
    await sleep(backoffMs(attempt, { baseMs: 20, capMs: 500 }), signal);
  }
  throw new Fault("unavailable", "the machine's monitor does not answer", {
    reason: "MONITOR_UNREACHABLE",
    cause: last,
  });
}

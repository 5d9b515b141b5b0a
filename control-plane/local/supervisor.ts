/**
 * Keeps one program running: what ends unasked is started again after a growing, capped wait, and given
 * up when it ends too often, or before it was ever ready (settings are wrong; trying again cannot help).
 * Its state can be read at any time and every change is told.
 */
import { Fault, toFault } from "#kernel/fault.ts";
import { backoffMs, deadline, sleep } from "#kernel/retry.ts";
import { describeExit, type Child, type StopStep } from "./child.ts";

export type SupervisedState = "stopped" | "starting" | "running" | "waiting" | "failed";

export interface SupervisorOptions {
  readonly name: string;
  /** Starts it; called again after each crash. `ready` is called when it says that it serves. */
  readonly spawn: (ready: () => void) => Promise<Child>;
  readonly stopSteps: readonly StopStep[];
  /** One line for the person at the screen. */
  readonly tell: (line: string) => void;
  readonly restarts?: { readonly most: number; readonly withinMs: number; readonly capMs: number };
  readonly now?: () => number;
}

const defaultRestarts = { most: 5, withinMs: 120_000, capMs: 10_000 };

export class Supervisor {
  readonly name: string;
  /** Resolves with the reason once it has been given up. */
  readonly failed: Promise<Fault>;
  readonly #options: SupervisorOptions;
  readonly #stopping = new AbortController();
  readonly #crashes: number[] = [];
  readonly #ready: Promise<void>;
  #becomeReady = () => undefined as void;
  #fail = (_fault: Fault) => undefined as void;
  #state: SupervisedState = "stopped";
  #wasReady = false;
  #restarting = false;
  #child: Child | undefined;
  #loop: Promise<void> = Promise.resolve();

  constructor(options: SupervisorOptions) {
    this.name = options.name;
    this.#options = options;
    this.failed = new Promise((resolve) => (this.#fail = resolve));
    this.#ready = new Promise((resolve) => (this.#becomeReady = resolve));
  }

  get state(): SupervisedState {
    return this.#state;
  }

  get child(): Child | undefined {
    return this.#child;
  }

  /** How often it ended unasked, of late. */
  get crashes(): number {
    return this.#crashes.length;
  }

  /** Starts it and waits until it is ready for the first time, at most `limitMs`. */
  async start(limitMs: number, signal: AbortSignal): Promise<void> {
    this.#loop = this.#keepRunning();
    using limit = deadline(limitMs, `the start of ${this.name}`, signal);
    const late = new Promise<never>((_resolve, reject) => {
      limit.addEventListener("abort", () => reject(toFault(limit.reason)), { once: true });
    });
    const givenUp = this.failed.then((fault) => {
      throw fault;
    });
    await Promise.race([this.#ready, givenUp, late]);
  }

  /** Ends the child, to be started anew at once: its program has changed. */
  async restart(): Promise<void> {
    this.#crashes.length = 0;
    this.#restarting = true;
    await this.#child?.stop(this.#options.stopSteps);
  }

  /** Ends the child and does not start it again. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#child?.stop(this.#options.stopSteps);
    await this.#loop;
  }

  async #keepRunning(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      this.#state = "starting";
      const detail = await this.#runOnce();
      if (signal.aborted) break;
      if (this.#restarting) {
        this.#restarting = false;
        continue;
      }
      const fault = this.#countCrash(detail);
      if (fault) {
        this.#state = "failed";
        this.#fail(fault);
        return;
      }
      this.#state = "waiting";
      const { capMs } = this.#options.restarts ?? defaultRestarts;
      const waitMs = backoffMs(this.#crashes.length - 1, { baseMs: 200, capMs });
      this.#options.tell(`${this.name} ${detail}; starting it again in ${(waitMs / 1000).toFixed(1)} s`);
      await sleep(waitMs, signal).catch(() => undefined); // aborted: the loop's condition sees it
    }
    this.#state = "stopped";
  }

  /** Gives how it ended. */
  async #runOnce(): Promise<string> {
    try {
      this.#child = await this.#options.spawn(() => {
        this.#state = "running";
        this.#wasReady = true;
        this.#becomeReady();
      });
    } catch (error) {
      return `did not start (${toFault(error).message})`;
    }
    // `stop` may have been called while the process was being made.
    if (this.#stopping.signal.aborted) await this.#child.stop(this.#options.stopSteps);
    return describeExit(await this.#child.exited);
  }

  #countCrash(detail: string): Fault | undefined {
    const now = (this.#options.now ?? Date.now)();
    const { most, withinMs } = this.#options.restarts ?? defaultRestarts;
    this.#crashes.push(now);
    while ((this.#crashes[0] ?? now) < now - withinMs) this.#crashes.shift();
    if (this.#wasReady && this.#crashes.length <= most) return undefined;
    const often = this.#wasReady ? `, ${String(this.#crashes.length)} times of late` : " before it was ready";
    return new Fault("unavailable", `${this.name} ${detail}${often}`, {
      reason: "PROGRAM_KEEPS_ENDING",
      detail: { program: this.name, last_lines: this.#child?.tail ?? [] },
    });
  }
}

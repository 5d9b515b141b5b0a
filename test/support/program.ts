/** A program of the product under a test's command: started, killed in any way, started again. */
import { Child, type Argv, type Environment } from "#cp/local/child.ts";
import { root } from "#cp/local/programs.ts";
import { watchLines } from "#cp/local/screen.ts";
import { Fault } from "#kernel/fault.ts";
import { until } from "./until.ts";

export interface ProgramOptions {
  readonly name: string;
  readonly argv: Argv;
  readonly env: Environment;
  readonly logFile: string;
  /** It prints a `ready` line; `start` waits for it. */
  readonly announcesReady: boolean;
  readonly stopWaitMs?: number;
}

const readyLimitMs = 90_000;

export class Program implements AsyncDisposable {
  readonly #options: ProgramOptions;
  #child: Child | undefined;

  constructor(options: ProgramOptions) {
    this.#options = options;
  }

  /** Throws when it does not run. */
  get pid(): number {
    return this.#running().pid;
  }

  get isRunning(): boolean {
    return this.#child !== undefined && this.#child.exit === undefined;
  }

  get logFile(): string {
    return this.#options.logFile;
  }

  /** @param env added to what it was made with, for this start only */
  async start(env: Environment = {}): Promise<void> {
    if (this.isRunning) return;
    const { name, argv, logFile, announcesReady } = this.#options;
    let ready = !announcesReady;
    const child = await Child.spawn({
      name,
      argv,
      env: { ...this.#options.env, ...env },
      directory: root,
      logFile,
      dieWith: "SIGKILL",
      onLine: watchLines({ name, logFile, tell: () => undefined, onReady: () => (ready = true) }),
    });
    this.#child = child;
    await until(() => ready || child.exit !== undefined, readyLimitMs);
    if (!ready) throw new Fault("unavailable", `${name} ended at its start:\n${child.tail.join("\n")}`);
  }

  /** `kill -9`, and waits until the process is gone. */
  async kill(): Promise<void> {
    await this.#running().stop([]);
  }

  /** Freezes it (`true`) or lets it go on, as a host that hangs. */
  freeze(frozen: boolean): void {
    this.#running().kill(frozen ? "SIGSTOP" : "SIGCONT");
  }

  /** Stops it as an operator does, by SIGTERM. Not running is success. */
  async stop(): Promise<void> {
    await this.#child?.stop([{ signal: "SIGTERM", waitMs: this.#options.stopWaitMs ?? 20_000 }]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  #running(): Child {
    if (!this.#child) throw new Fault("internal", `${this.#options.name} was never started`);
    return this.#child;
  }
}

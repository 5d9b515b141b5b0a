/**
 * One child process of the local cloud: its output goes line by line to a log file, it dies when this
 * process dies, whatever the cause, and it is stopped by a ladder of signals with a limit each.
 *
 * A child runs in a session of its own: a terminal sends Ctrl-C to every process in the foreground, and
 * the database must not hear it before the agents have stopped their guests.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createWriteStream } from "node:fs";
import type { Readable } from "node:stream";
import { Fault } from "#kernel/fault.ts";

export type Argv = readonly [string, ...string[]];
export type Environment = Readonly<Record<string, string>>;

export interface ChildOptions {
  readonly name: string;
  readonly argv: Argv;
  readonly env: Environment;
  readonly directory: string;
  readonly logFile: string;
  /** Sent by the kernel when this process is gone, so that even its `kill -9` leaves no child. */
  readonly dieWith: "SIGINT" | "SIGTERM" | "SIGKILL";
  /** The argv places its own `setpriv --pdeathsig`, because a change of user would clear an outer one. */
  readonly ownDeathSignal?: boolean;
  readonly onLine?: (line: string) => void;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface StopStep {
  readonly signal: NodeJS.Signals;
  readonly waitMs: number;
}

/** How long SIGKILL may take: only a process in uninterruptible sleep needs any time. */
const killWaitMs = 5_000;
const tailLines = 12;
/** For the last lines of a child that has ended. */
const outputGraceMs = 500;

export class Child {
  readonly name: string;
  readonly pid: number;
  readonly exited: Promise<Exit>;
  readonly #process: ChildProcess;
  readonly #tail: string[] = [];
  #exit: Exit | undefined;
  #outputClosed = false;

  private constructor(name: string, child: ChildProcess & { pid: number }, options: ChildOptions) {
    this.name = name;
    this.pid = child.pid;
    this.#process = child;
    const log = createWriteStream(options.logFile, { flags: "a", mode: 0o600 });
    // A log on a full disk must not take the cloud down; the lines still reach `onLine` and the tail.
    log.on("error", (error) => this.#remember([`log file: ${error.message}`]));
    const take = (lines: readonly string[]) => {
      log.write(`${lines.join("\n")}\n`);
      this.#remember(lines);
      if (options.onLine) for (const line of lines) options.onLine(line);
    };
    const streams = [child.stdout, child.stderr].filter((stream) => stream !== null);
    for (const stream of streams) readLines(stream, take);
    this.exited = new Promise((resolve) => {
      child.once("exit", (code, signal) => {
        this.#exit = { code, signal };
        resolve(this.#exit);
        // Programs that it left behind may hold its output open for ever.
        setTimeout(() => streams.forEach((stream) => stream.destroy()), outputGraceMs).unref();
      });
    });
    child.once("close", () => {
      this.#outputClosed = true;
      log.end();
    });
  }

  /** Starts the program; throws `unavailable` PROGRAM_NOT_STARTED when it cannot be run at all. */
  static async spawn(options: ChildOptions): Promise<Child> {
    const [program, ...args] = options.ownDeathSignal
      ? options.argv
      : ["setpriv", "--pdeathsig", options.dieWith.slice(3), ...options.argv];
    const child = spawn(program, args, {
      cwd: options.directory,
      env: options.env,
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", (cause) => {
        reject(
          new Fault("unavailable", `${options.name} cannot be started: ${program} did not run`, {
            reason: "PROGRAM_NOT_STARTED",
            cause,
          }),
        );
      });
    });
    if (child.pid === undefined) throw new Fault("internal", `${options.name} has no process id`);
    return new Child(options.name, Object.assign(child, { pid: child.pid }), options);
  }

  /** Undefined while it runs. */
  get exit(): Exit | undefined {
    return this.#exit;
  }

  /** True once it has ended and everything it wrote was read. */
  get outputClosed(): boolean {
    return this.#outputClosed;
  }

  /** The last lines it wrote, for the person who has to find out why it ended. */
  get tail(): readonly string[] {
    return this.#tail;
  }

  kill(signal: NodeJS.Signals): void {
    if (!this.#exit) this.#process.kill(signal);
  }

  /** Sends each signal in turn until the child is gone, SIGKILL last. Already gone is success. */
  async stop(steps: readonly StopStep[]): Promise<Exit> {
    for (const { signal, waitMs } of [...steps, { signal: "SIGKILL", waitMs: killWaitMs } as const]) {
      if (this.#exit) return this.#exit;
      this.kill(signal);
      const exit = await this.#exitWithin(waitMs);
      if (exit) return exit;
    }
    throw new Fault("unavailable", `${this.name} (process ${String(this.pid)}) does not end`, {
      reason: "PROCESS_STUCK",
    });
  }

  async #exitWithin(ms: number): Promise<Exit | undefined> {
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), ms);
    });
    try {
      return await Promise.race([this.exited, limit]);
    } finally {
      clearTimeout(timer);
    }
  }

  #remember(lines: readonly string[]): void {
    this.#tail.push(...lines.slice(-tailLines));
    this.#tail.splice(0, this.#tail.length - tailLines);
  }
}

/**
 * Hands on whole lines, as many as have come at once: a control plane logs thousands in a second, and
 * whoever reads them takes its time from what it measures or serves beside it.
 */
function readLines(stream: Readable, take: (lines: readonly string[]) => void): void {
  let rest = "";
  stream.setEncoding("utf8");
  stream.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    if (lines.length > 0) take(lines);
  });
  stream.once("end", () => {
    if (rest !== "") take([rest]);
  });
}

/** How an exit reads on the screen. */
export function describeExit(exit: Exit): string {
  return exit.signal ? `was ended by ${exit.signal}` : `ended with exit code ${String(exit.code)}`;
}

/** What a command has at hand while it runs: the cloud, the output, progress, and the signal of Ctrl-C. */
import type { Command } from "commander";
import type { ReadStream } from "node:tty";
import { printable } from "#kernel/printable.ts";
import { Skerry } from "../client.ts";
import type { RetryNotice } from "../transport.ts";
import type { Environment } from "./config.ts";
import { findConnection, type Connection } from "./connection.ts";
import { Output, type Format, type TextSink } from "./output.ts";
import { Progress } from "./progress.ts";

/** The process, as far as commands may touch it. */
export interface Terminal {
  readonly env: Environment;
  readonly stdin: ReadStream;
  readonly stdout: TextSink & NodeJS.WritableStream;
  readonly stderr: TextSink & NodeJS.WritableStream;
  /** Aborts on Ctrl-C. */
  readonly signal: AbortSignal;
}

export interface GlobalOptions {
  readonly url?: string;
  readonly token?: string;
  readonly profile?: string;
  readonly output: Format;
}

export class Session {
  readonly terminal: Terminal;
  readonly globals: GlobalOptions;
  readonly out: Output;
  #connection: Promise<Connection> | undefined;
  #cloud: Promise<Skerry> | undefined;

  constructor(terminal: Terminal, globals: GlobalOptions) {
    this.terminal = terminal;
    this.globals = globals;
    const { stdout, env } = terminal;
    const colour = stdout.isTTY === true && !env["NO_COLOR"] && env["TERM"] !== "dumb";
    this.out = new Output({ sink: stdout, format: globals.output, colour });
  }

  get signal(): AbortSignal {
    return this.terminal.signal;
  }

  /** Where the cloud is and how to be let in. */
  connection(): Promise<Connection> {
    this.#connection ??= findConnection(this.globals, this.terminal.env);
    return this.#connection;
  }

  /** The cloud's client. */
  cloud(): Promise<Skerry> {
    this.#cloud ??= this.connection().then(
      (connection) => new Skerry({ ...connection, onRetry: (notice) => this.#tellRetry(notice) }),
    );
    return this.#cloud;
  }

  /** Something worth knowing that is no result. */
  note(text: string): void {
    this.terminal.stderr.write(`${printable(text, true)}\n`);
  }

  progress(): Progress {
    return new Progress(this.terminal.stderr);
  }

  /** One short hiccup is not worth a word; a longer trouble is. */
  #tellRetry({ fault, attempt, waitMs }: RetryNotice): void {
    if (attempt >= 2) this.note(`${fault.message}; trying again in ${(waitMs / 1000).toFixed(1)} s`);
  }
}

/** Turns a handler into a commander action: the session comes first, commander's own arguments follow. */
export type Run = <A extends unknown[]>(
  handler: (session: Session, ...args: A) => Promise<void>,
) => (...args: [...A, Command]) => Promise<void>;

/** Makes {@link Run} for a terminal. */
export function runner(terminal: Terminal): Run {
  return <A extends unknown[]>(handler: (session: Session, ...args: A) => Promise<void>) =>
    async (...args: [...A, Command]) => {
      const command = args.at(-1) as Command;
      const session = new Session(terminal, command.optsWithGlobals<GlobalOptions>());
      await handler(session, ...(args.slice(0, -1) as unknown as A));
    };
}

/**
 * Serial consoles: several clients share one port. What they see is the log, read on from where each of
 * them is, so nothing depends on who was connected when; what they type goes to the one open port.
 */
import { watch } from "node:fs";
import type { Duplex } from "node:stream";
import { Fault, isFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { sleep } from "#kernel/retry.ts";
import { MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import type { ConsoleAccess } from "../drivers/driver.ts";
import { ConsoleLog, type LogChunk } from "./console-log.ts";
import type { MachineManager } from "./manager.ts";

export interface ConsolesOptions {
  readonly access: ConsoleAccess | undefined;
  readonly manager: Pick<MachineManager, "get" | "list">;
  readonly directoryOf: (id: string) => string;
  readonly log: Logger;
  readonly rotateBytes?: number;
}

const chunkBytes = 64 * 1024;
/** Looks again now and then, in case the file system does not tell of changes. */
const lookAgainMs = 1000;
/** A log that is not there yet cannot be watched. */
const absentMs = 100;
const rotateEveryMs = 30_000;

export class Consoles {
  readonly #options: ConsolesOptions;
  readonly #ports = new Map<string, SharedPort>();

  constructor(options: ConsolesOptions) {
    this.#options = options;
  }

  /** Part of the log. Throws `notFound` for an unknown machine. */
  read(id: string, offset: number, limit: number): Promise<LogChunk> {
    return this.#logOf(id).read(offset, limit);
  }

  /** Output from `offset` on (-1: the last 64 KiB), then live, until the signal aborts or the machine is gone. */
  async *follow(id: string, offset: number, signal: AbortSignal): AsyncGenerator<LogChunk> {
    const log = this.#logOf(id);
    for (let next = offset; !signal.aborted;) {
      using change = new FileChange(log.path, signal);
      const chunk = await log.read(next, chunkBytes);
      if (chunk.output.length > 0 || next < 0) yield chunk;
      next = chunk.offset;
      if (next < chunk.endOffset) continue;
      await change.wait();
      this.#options.manager.get(id);
    }
  }

  /** Takes part in typing; close it when done. */
  join(id: string): Typist {
    const access = this.#access();
    this.#options.manager.get(id);
    const port = this.#ports.get(id) ?? new SharedPort((signal) => access.connect(id, signal));
    this.#ports.set(id, port);
    port.users++;
    return {
      write: async (input) => {
        // As with a cable to a machine that is switched off: nobody listens, nothing is kept.
        if (this.#options.manager.get(id).state !== MachineState.RUNNING) return;
        await port.write(input);
      },
      [Symbol.dispose]: () => {
        if (--port.users > 0) return;
        port.close();
        if (this.#ports.get(id) === port) this.#ports.delete(id);
      },
    };
  }

  /** Keeps the logs of all machines bounded, until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      if (this.#options.access) for (const { id } of this.#options.manager.list()) await this.#rotate(id);
      await sleep(rotateEveryMs, signal).catch(() => undefined); // aborted: the loop ends
    }
  }

  async #rotate(id: string): Promise<void> {
    try {
      if (await this.#logOf(id).rotate()) this.#options.log.info("console.rotated", { machine: id });
    } catch (fault) {
      if (isFault(fault, "notFound")) return; // removed meanwhile
      this.#options.log.warn("console.rotate", { machine: id, fault });
    }
  }

  #logOf(id: string): ConsoleLog {
    this.#options.manager.get(id);
    const path = this.#access().logPath(this.#options.directoryOf(id));
    const { rotateBytes } = this.#options;
    return new ConsoleLog(path, rotateBytes === undefined ? {} : { rotateBytes });
  }

  #access(): ConsoleAccess {
    if (this.#options.access) return this.#options.access;
    throw new Fault("conflict", "machines of this host have no console", { reason: "CONSOLE_UNSUPPORTED" });
  }
}

export interface Typist extends Disposable {
  /** Resolves when the port has taken the input: that is the backpressure. */
  write(input: Uint8Array): Promise<void>;
}

/** The open port of one machine; opened by the first input, and again after the machine was restarted. */
class SharedPort {
  users = 0;
  readonly #connect: (signal: AbortSignal) => Promise<Duplex>;
  readonly #closing = new AbortController();
  #opening: Promise<Duplex> | undefined;

  constructor(connect: (signal: AbortSignal) => Promise<Duplex>) {
    this.#connect = connect;
  }

  async write(input: Uint8Array): Promise<void> {
    const port = await (this.#opening ??= this.#open());
    await new Promise<void>((resolve, reject) => {
      port.write(input, (error) => (error ? reject(broken(error)) : resolve()));
    });
  }

  close(): void {
    this.#closing.abort(new Fault("unavailable", "the console was closed", { reason: "CANCELLED" }));
  }

  async #open(): Promise<Duplex> {
    try {
      const port = await this.#connect(this.#closing.signal);
      const forget = () => (this.#opening = undefined);
      port.once("close", forget);
      port.on("error", forget); // whoever types next hears of it or gets a new port
      port.resume(); // what it prints is read from the log
      this.#closing.signal.addEventListener("abort", () => port.destroy(), { once: true });
      return port;
    } catch (thrown) {
      this.#opening = undefined;
      throw thrown;
    }
  }
}

function broken(cause: Error): Fault {
  return new Fault("unavailable", "the console was cut off", { reason: "CONSOLE_CUT_OFF", cause });
}

/** Tells when a file may have changed since this was made. */
class FileChange implements Disposable {
  readonly #stop = new AbortController();
  readonly #parent: AbortSignal;
  readonly #ended = () => this.#stop.abort();
  #waitMs = lookAgainMs;

  constructor(path: string, parent: AbortSignal) {
    this.#parent = parent;
    parent.addEventListener("abort", this.#ended, { once: true });
    try {
      const watcher = watch(path, { persistent: false, signal: this.#stop.signal }, this.#ended);
      watcher.on("error", this.#ended);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      this.#waitMs = absentMs;
    }
  }

  async wait(): Promise<void> {
    await sleep(this.#waitMs, this.#stop.signal).catch(() => undefined); // it changed, or the wait is over
  }

  [Symbol.dispose](): void {
    this.#stop.abort();
    this.#parent.removeEventListener("abort", this.#ended);
  }
}

/**
 * The serial consoles of adopted machines. Nobody wrote down what they print, so the driver does, into the machine's
 * folder, from when it is adopted and for as long as the agent runs; and it has the one port that there is.
 */
import { constants, createWriteStream } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { Duplex, type Readable, type Writable } from "node:stream";
import { ReadStream, WriteStream } from "node:tty";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { connectSocket, machineFiles } from "../hypervisor/files.ts";
import type { FoundDomain } from "./library.ts";
import { isOn } from "./observe.ts";
import { select } from "./xml.ts";

/** Where a running machine's first serial port can be reached. */
export interface SerialPort {
  readonly type: "pty" | "unix";
  readonly path: string;
}

interface Line extends AsyncDisposable {
  readonly port: SerialPort;
  readonly input: Readable;
  readonly output: Writable;
}

const mostUnreadBytes = 64 * 1024;

/** Reads it from the description; undefined for a machine that is off or has none that we could open. Pure. */
export function readSerialPort(found: FoundDomain | undefined): SerialPort | undefined {
  if (!isOn(found)) return undefined;
  const devices = (tag: string) => select(found.description, "devices", tag);
  const [serial] = [...devices("serial"), ...devices("console")];
  const source = serial && select(serial, "source")[0];
  const path = source?.attributes["path"];
  if (!serial || path === undefined) return undefined;
  const { type } = serial.attributes;
  if (type === "pty") return { type, path };
  return type === "unix" && source?.attributes["mode"] === "bind" ? { type, path } : undefined;
}

export class ForeignConsoles implements AsyncDisposable {
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  readonly #lines = new Map<string, Promise<Line | undefined>>();

  constructor({ log, lifetime }: { readonly log: Logger; readonly lifetime: AbortSignal }) {
    this.#log = log;
    this.#signal = lifetime;
  }

  /** Sees to it that what the port prints is written down; without a port, nothing is any more. */
  async follow(id: string, directory: string, port: SerialPort | undefined): Promise<void> {
    const before = this.#lines.get(id) ?? Promise.resolve(undefined);
    const after = before.then((line) => this.#replace(line, id, directory, port));
    this.#lines.set(id, after);
    await after;
  }

  async #replace(
    line: Line | undefined,
    id: string,
    directory: string,
    port: SerialPort | undefined,
  ): Promise<Line | undefined> {
    if (line && line.port.path === port?.path && line.output.writable) return line;
    await line?.[Symbol.asyncDispose]();
    if (!port || this.#signal.aborted) return undefined;
    try {
      return await this.#open(port, machineFiles(directory).consoleLog);
    } catch (fault) {
      // A machine without its console is better than none.
      this.#log.warn("libvirt.console_unreachable", { machine: id, fault });
      return undefined;
    }
  }

  /** Lets go of the port. */
  async hangUp(id: string): Promise<void> {
    await this.follow(id, "", undefined);
    this.#lines.delete(id);
  }

  /** One end of the port: what it prints from now on, and what is typed into it. */
  async connect(id: string): Promise<Duplex> {
    const line = await this.#lines.get(id);
    if (!line) {
      throw new Fault("conflict", "the machine has no serial console", { reason: "CONSOLE_UNSUPPORTED" });
    }
    const { input, output } = line;
    const end = new Duplex({
      read: () => undefined, // it comes when it comes
      write: (chunk: Buffer, _encoding, done) => void output.write(chunk, done),
      destroy: (error, done) => {
        input.off("data", hear).off("close", leave);
        done(error);
      },
    });
    // All of it is in the log: whoever does not listen misses nothing.
    const hear = (chunk: Buffer) => void (end.readableLength < mostUnreadBytes && end.push(chunk));
    const leave = () => end.destroy();
    input.on("data", hear).once("close", leave);
    return end;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const id of this.#lines.keys()) await this.hangUp(id);
  }

  async #open(port: SerialPort, logPath: string): Promise<Line> {
    const log = createWriteStream(logPath, { flags: "a", mode: 0o600 });
    log.on("error", (fault) => this.#log.warn("libvirt.console_not_written", { fault }));
    if (port.type === "unix") {
      const socket = await connectSocket(dirname(port.path), basename(port.path), this.#signal);
      return this.#join(port, socket, socket, log);
    }
    // Each of Node's two ends of a terminal opens it anew by its name and leaves ours alone.
    const flags = constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK;
    const terminal = await open(port.path, flags);
    return this.#join(port, new ReadStream(terminal.fd), new WriteStream(terminal.fd), log, terminal);
  }

  #join(port: SerialPort, input: Readable, output: Writable, log: Writable, file?: FileHandle): Line {
    const end = () => {
      input.destroy();
      output.destroy();
    };
    // The guest is off: its port is gone.
    input.on("error", end).once("end", end).once("close", end);
    output.on("error", end);
    input.pipe(log, { end: false });
    const close = async () => {
      end();
      log.end();
      await file?.close();
    };
    return { port, input, output, [Symbol.asyncDispose]: close };
  }
}

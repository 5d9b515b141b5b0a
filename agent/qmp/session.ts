/**
 * One QMP conversation. Three things can go wrong with a command, and they are three faults: it took too long
 * (QMP_TIMEOUT: its outcome is unknown, the session lives on), the peer is gone (QMP_DISCONNECTED: outcome unknown,
 * session over), the peer said no (QMP_COMMAND_FAILED: it had no effect).
 */
import type { Duplex } from "node:stream";
import { Fault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import type { QmpCommand, QmpCommands, QmpEvent } from "./commands.ts";
import { EventQueue } from "./event-queue.ts";
import { encodeJsonLine, JsonLineDecoder, protocolFault } from "./wire.ts";

export interface QmpLimits {
  readonly signal: AbortSignal;
  /** Default 10 s: QEMU answers at once unless it is busy with its disk. */
  readonly timeoutMs?: number;
  /** Not behind the commands before it: for the few that get a QEMU going again that hangs. */
  readonly urgent?: boolean;
}

interface Waiting {
  readonly command: string;
  resolve(value: unknown): void;
  reject(fault: Fault): void;
}

const defaultTimeoutMs = 10_000;
/** QEMU's name for commands out of order ("out of band"). */
const urgency = "oob";

export class QmpSession implements Disposable {
  readonly #stream: Duplex;
  readonly #decoder = new JsonLineDecoder();
  readonly #waiting = new Map<number, Waiting>();
  readonly #events = new EventQueue<QmpEvent>();
  readonly #greeting: Promise<readonly string[]>;
  #greeted: ((capabilities: readonly string[]) => void) | undefined;
  #takesUrgent = false;
  #refuseGreeting: ((fault: Fault) => void) | undefined;
  #nextId = 1;
  #end: Fault | undefined;

  private constructor(stream: Duplex) {
    this.#stream = stream;
    this.#greeting = new Promise((resolve, reject) => {
      this.#greeted = resolve;
      this.#refuseGreeting = reject;
    });
    // Whoever negotiates awaits the greeting; a stream that ends later must not surface here again.
    this.#greeting.catch(() => undefined);
    stream.on("data", (chunk: Buffer) => this.#receive(chunk));
    stream.once("error", (error) => this.#close(error));
    stream.once("close", () => this.#close());
    stream.once("end", () => this.#close());
  }

  /** Waits for the greeting and negotiates capabilities; the stream belongs to the session from here on. */
  static async open(stream: Duplex, limits: QmpLimits): Promise<QmpSession> {
    const session = new QmpSession(stream);
    try {
      const offered = await session.#limited<readonly string[]>("greeting", limits, () => session.#greeting);
      const enable = offered.filter((name) => name === urgency);
      await session.execute("qmp_capabilities", enable.length === 0 ? {} : { enable }, limits);
      session.#takesUrgent = enable.length > 0;
      return session;
    } catch (fault) {
      session[Symbol.dispose]();
      throw fault;
    }
  }

  /** Runs one command and gives its reply. Commands may overlap; QEMU answers them in order. */
  async execute<C extends QmpCommand>(
    command: C,
    args: QmpCommands[C]["arguments"],
    limits: QmpLimits,
  ): Promise<QmpCommands[C]["returns"]> {
    if (this.#end) throw this.#disconnected(command);
    const id = this.#nextId++;
    try {
      return await this.#limited(command, limits, () => {
        const reply = new Promise<unknown>((resolve, reject) => {
          this.#waiting.set(id, { command, resolve, reject });
        });
        const verb = limits.urgent === true && this.#takesUrgent ? "exec-oob" : "execute";
        this.#stream.write(encodeJsonLine({ [verb]: command, arguments: args, id }));
        return reply;
      });
    } finally {
      this.#waiting.delete(id);
    }
  }

  /** Every event since the greeting; ends with the session or the signal. One consumer. */
  events(signal: AbortSignal): AsyncIterable<QmpEvent> {
    return this.#events.drain(signal);
  }

  [Symbol.dispose](): void {
    this.#stream.destroy();
    this.#close();
  }

  #receive(chunk: Buffer): void {
    if (this.#end) return;
    try {
      for (const message of this.#decoder.push(chunk)) this.#dispatch(message);
    } catch (error) {
      this.#stream.destroy();
      this.#close(error);
    }
  }

  #dispatch(message: Record<string, unknown>): void {
    if ("QMP" in message) {
      const { capabilities } = message["QMP"] as { capabilities?: readonly string[] };
      this.#greeted?.(capabilities ?? []);
    } else if (typeof message["event"] === "string") {
      const data = (message["data"] ?? {}) as Record<string, unknown>;
      this.#events.push({ name: message["event"], data, atMs: timeOf(message["timestamp"]) });
    } else if ("return" in message) {
      this.#waiting.get(Number(message["id"]))?.resolve(message["return"]);
    } else if ("error" in message) {
      const waiting = this.#waiting.get(Number(message["id"]));
      waiting?.reject(refusal(waiting.command, message["error"]));
    } else {
      throw protocolFault("neither greeting, event nor reply");
    }
  }

  #close(cause?: unknown): void {
    if (this.#end) return;
    this.#end = new Fault("unavailable", "the machine's monitor is gone", {
      reason: "QMP_DISCONNECTED",
      cause,
    });
    for (const waiting of this.#waiting.values()) waiting.reject(this.#disconnected(waiting.command));
    this.#refuseGreeting?.(this.#disconnected());
    this.#events.end();
  }

  #disconnected(command?: string): Fault {
    return new Fault("unavailable", "the machine's monitor is gone", {
      reason: "QMP_DISCONNECTED",
      detail: command === undefined ? {} : { command },
      cause: this.#end?.cause,
    });
  }

  async #limited<T>(what: string, limits: QmpLimits, work: () => Promise<unknown>): Promise<T> {
    const timeoutMs = limits.timeoutMs ?? defaultTimeoutMs;
    using limit = deadline(timeoutMs, `QMP ${what}`, limits.signal);
    limit.throwIfAborted();
    return await new Promise<T>((resolve, reject) => {
      const aborted = () =>
        reject(limits.signal.aborted ? (limits.signal.reason as Error) : timeout(what, timeoutMs));
      limit.addEventListener("abort", aborted, { once: true });
      work().then((value) => resolve(value as T), reject);
    });
  }
}

function timeOf(timestamp: unknown): number {
  const { seconds, microseconds } = timestamp as { seconds: number; microseconds: number };
  return seconds * 1000 + microseconds / 1000;
}

function timeout(command: string, timeoutMs: number): Fault {
  return new Fault("unavailable", "the machine's monitor does not answer", {
    reason: "QMP_TIMEOUT",
    detail: { command, timeoutMs },
  });
}

function refusal(command: string, error: unknown): Fault {
  const { class: kind, desc } = error as { class?: unknown; desc?: unknown };
  return new Fault("internal", "the machine's monitor refused a command", {
    reason: "QMP_COMMAND_FAILED",
    detail: { command, class: String(kind) },
    cause: new Error(`${command}: ${String(desc)}`),
  });
}

/** QEMU's monitor as a person uses it: any command, and every event with the moment at which QEMU saw it happen. */
import type { Socket } from "node:net";
import { connectSocket } from "#agent/drivers/hypervisor/files.ts";
import { encodeJsonLine, JsonLineDecoder } from "#agent/qmp/wire.ts";
import { Fault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";

export interface MonitorEvent {
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** Unix milliseconds, by QEMU's clock, to the microsecond. */
  readonly atMs: number;
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (fault: Fault) => void;
}

const eventLimitMs = 600_000;

export class Monitor implements Disposable {
  readonly #socket: Socket;
  readonly #decoder = new JsonLineDecoder();
  readonly #events: MonitorEvent[] = [];
  readonly #waiting = new Map<number, Waiting>();
  readonly #watchers = new Set<() => void>();
  #nextId = 1;
  #closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      for (const message of this.#decoder.push(chunk)) this.#receive(message);
    });
    socket.on("error", () => socket.destroy()); // its end is what counts, and that comes
    socket.once("close", () => this.#end());
  }

  /** @param name of a socket in the machine's folder */
  static async open(directory: string, name: string, signal: AbortSignal): Promise<Monitor> {
    const monitor = new Monitor(await connectSocket(directory, name, signal));
    await monitor.execute("qmp_capabilities");
    return monitor;
  }

  execute<Reply>(command: string, args: object = {}): Promise<Reply> {
    const id = this.#nextId++;
    return new Promise<unknown>((resolve, reject) => {
      if (this.#closed) reject(gone());
      this.#waiting.set(id, { resolve, reject });
      this.#socket.write(encodeJsonLine({ execute: command, arguments: args, id }));
    }) as Promise<Reply>;
  }

  /** The first event, past or to come, that fits. Throws when the monitor's end or the signal's comes first. */
  async event(
    what: string,
    fits: (event: MonitorEvent) => boolean,
    signal: AbortSignal,
  ): Promise<MonitorEvent> {
    using limit = deadline(eventLimitMs, `QEMU: ${what}`, signal);
    return await new Promise((resolve, reject) => {
      const look = () => {
        const found = this.#events.find(fits);
        if (found) resolve(found);
        else if (limit.aborted) reject(limit.reason as Error);
        else if (this.#closed) reject(gone());
        else return;
        this.#watchers.delete(look);
      };
      this.#watchers.add(look);
      limit.addEventListener("abort", look, { once: true });
      look();
    });
  }

  /** All that have come so far. */
  get events(): readonly MonitorEvent[] {
    return this.#events;
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  #receive(message: Readonly<Record<string, unknown>>): void {
    const id = Number(message["id"]);
    if (typeof message["event"] === "string") {
      const { seconds, microseconds } = message["timestamp"] as Readonly<Record<string, number>>;
      const atMs = (seconds ?? 0) * 1000 + (microseconds ?? 0) / 1000;
      const data = (message["data"] ?? {}) as Readonly<Record<string, unknown>>;
      this.#events.push({ name: message["event"], data, atMs });
      for (const look of [...this.#watchers]) look();
    } else if ("error" in message) {
      const cause = new Error(JSON.stringify(message["error"]));
      this.#waiting.get(id)?.reject(new Fault("internal", `QEMU refused: ${cause.message}`, { cause }));
    } else if ("return" in message) {
      this.#waiting.get(id)?.resolve(message["return"]);
    }
    this.#waiting.delete(id);
  }

  #end(): void {
    this.#closed = true;
    for (const { reject } of this.#waiting.values()) reject(gone());
    for (const look of [...this.#watchers]) look();
  }
}

const gone = () => new Fault("unavailable", "QEMU's monitor has closed", { reason: "QMP_DISCONNECTED" });

/**
 * The source's end of one channel of a move: the pages of a file, those that were written to meanwhile again,
 * and at last the digest of them all. What the other end has not confirmed counts as not sent.
 */
import { createConnection, type Socket } from "node:net";
import { once } from "node:events";
import { Fault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import { cancelled } from "#kernel/stall.ts";
import { type PageFile, pageBytes } from "./page-file.ts";
import { encodeRecord, readRecords } from "./wire.ts";

/** An end that says nothing for so long is gone. */
const answerLimitMs = 30_000;

export class OutgoingChannel {
  readonly pages: PageFile;
  readonly #onLost: () => void;
  zeroPages = 0;
  /** What the other end had and still has; undefined: it had to have all. */
  readonly keptPages: number | undefined;
  #socket: Socket | undefined;
  #sent = 0;
  #taken = 0;
  #done = false;
  #wake = () => undefined as void;

  /**
   * @param baseline the other end has the pages as that migration left them; empty: it has none
   * @param onLost the connection broke or ended
   */
  constructor(pages: PageFile, baseline: string, onLost: () => void = () => undefined) {
    this.pages = pages;
    this.#onLost = onLost;
    if (baseline !== "" && pages.since === baseline) {
      pages.markChanged();
      this.keptPages = pages.pages - pages.dirtyPages.length;
    } else pages.markAll();
  }

  get isConnected(): boolean {
    return this.#socket?.destroyed === false;
  }

  /** Connects to where somebody carries the bytes on. Nothing that was under way before is counted. */
  async connect(path: string, signal: AbortSignal): Promise<void> {
    using limit = deadline(answerLimitMs, "connecting the channel", signal);
    const socket = createConnection(path);
    try {
      await once(socket, "connect", { signal: limit });
    } catch (cause) {
      socket.destroy();
      throw limit.aborted ? cancelled(limit) : lost(cause);
    }
    this.#socket = socket;
    this.#sent = this.#taken = 0;
    this.#done = false;
    void this.#listen(socket);
  }

  /** Sends these pages and waits until they are taken; those that were not are dirty again. */
  async send(batch: readonly number[], signal: AbortSignal): Promise<void> {
    this.pages.markClean(batch);
    try {
      for (const page of batch) this.#write(this.#recordOf(page));
      await this.#until(() => this.#taken >= this.#sent, signal);
    } catch (thrown) {
      this.pages.markDirty(batch);
      throw thrown;
    }
  }

  /** The guest may run there, without the pages that are dirty now. Its counter goes first. */
  async sendState(signal: AbortSignal): Promise<void> {
    await this.send([0], signal);
    const missing = Buffer.alloc(Math.ceil(this.pages.pages / 8));
    for (const page of this.pages.dirtyPages) missing[page >> 3]! |= 1 << (page & 7);
    this.#write(encodeRecord({ type: "state", missing }));
    await this.#until(() => this.#taken >= this.#sent, signal);
  }

  /** Nothing is written to any more and all has been sent: resolves when the other end has it all, unharmed. */
  async finish(signal: AbortSignal): Promise<void> {
    this.#done = false;
    this.#write(encodeRecord({ type: "end", digest: this.pages.digest() }));
    await this.#until(() => this.#done, signal);
  }

  close(): void {
    this.#socket?.destroy();
  }

  #recordOf(page: number): Buffer {
    const bytes = this.pages.read(page);
    const empty = bytes.every((byte) => byte === 0);
    if (empty) this.zeroPages++;
    return encodeRecord(empty ? { type: "zero", page } : { type: "page", page, bytes });
  }

  #write(record: Buffer): void {
    if (!this.#socket || !this.isConnected) throw lost();
    this.#sent++;
    this.#socket.write(record);
  }

  async #listen(socket: Socket): Promise<void> {
    try {
      for await (const record of readRecords(socket)) {
        if (record.type === "taken") this.#taken = record.count;
        if (record.type === "done") this.#done = true;
        this.#wake();
      }
    } catch {
      // A connection that broke is told to whoever waits for it, like one that ended.
    }
    socket.destroy();
    this.#onLost();
    this.#wake();
  }

  async #until(holds: () => boolean, signal: AbortSignal): Promise<void> {
    using limit = deadline(answerLimitMs, "the other host's answer", signal);
    limit.addEventListener("abort", () => this.#wake(), { once: true });
    while (!holds()) {
      if (!this.isConnected) throw lost();
      if (limit.aborted) throw cancelled(limit);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

export const batchPages = (256 * 1024) / pageBytes;

export function lost(cause?: unknown): Fault {
  return new Fault("unavailable", "the connection to the other host was lost", {
    reason: "MOVE_CHANNEL_LOST",
    cause,
  });
}

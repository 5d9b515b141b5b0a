/**
 * The destination's end of a move's channels: takes pages, confirms each, and says `done` when the digest of all
 * of them is right. Memory that was cut off is a machine lost; a disk goes on where it was.
 */
import { type Duplex, duplexPair } from "node:stream";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { FakeMachine, Hold } from "./machine.ts";
import { type PageFile, pageBytes } from "./page-file.ts";
import { encodeRecord, readRecords, type WireRecord } from "./wire.ts";

export class Incoming {
  readonly #machine: FakeMachine;
  readonly #log: Logger;
  /** The machine has arrived, or what had arrived of it is worth nothing any more. */
  readonly #onEnd: (arrived: boolean) => void;
  readonly #open = new Set<Duplex>();
  #hold: Hold;
  #closed = false;

  constructor(machine: FakeMachine, hold: Hold, log: Logger, onEnd: (arrived: boolean) => void) {
    this.#machine = machine;
    this.#hold = hold;
    this.#log = log;
    this.#onEnd = onEnd;
  }

  /** A new connection to one of the machine's channels. */
  connect(channel: string): Duplex {
    const pages = pagesOf(this.#machine, channel);
    const [near, far] = duplexPair();
    // A pair tells its other half of an end but not of a break.
    far.once("close", () => near.destroy());
    near.once("close", () => far.destroy());
    this.#open.add(near);
    void this.#serve(near, channel, pages);
    return far;
  }

  /** Lets go of the connections; the machine is as far as it came. */
  close(): void {
    this.#closed = true;
    for (const stream of this.#open) stream.destroy();
  }

  async #serve(stream: Duplex, channel: string, pages: PageFile): Promise<void> {
    try {
      let count = 0;
      for await (const record of readRecords(stream)) {
        if (this.#closed) break;
        if (channel === "memory") await this.#begin();
        if (record.type === "end") await this.#finish(channel, pages, record.digest);
        else take(pages, record);
        stream.write(encodeRecord({ type: "taken", count: ++count }));
        if (record.type === "end") stream.write(encodeRecord({ type: "done" }));
      }
    } catch (fault) {
      if (!this.#closed) this.#log.warn("fake.incoming", { machine: this.#machine.id, channel, fault });
    }
    this.#open.delete(stream);
    stream.destroy();
    const { stage, memoryBegun } = this.#hold;
    if (!this.#closed && channel === "memory" && memoryBegun && stage === "incoming") this.#onEnd(false);
  }

  async #begin(): Promise<void> {
    if (this.#hold.memoryBegun) return;
    this.#hold = { ...this.#hold, memoryBegun: true };
    await this.#machine.setHold(this.#hold);
  }

  async #finish(channel: string, pages: PageFile, digest: Buffer): Promise<void> {
    if (!pages.digest().equals(digest)) {
      throw new Fault("conflict", "what arrived is not what was sent", { reason: "MOVE_CORRUPT" });
    }
    if (channel !== "memory" && this.#machine.isOn) return;
    this.#hold = { ...this.#hold, stage: "arrived" };
    await this.#machine.setHold(this.#hold);
    this.#onEnd(true);
  }
}

/** The pages behind a channel's name. */
export function pagesOf(machine: FakeMachine, channel: string): PageFile {
  if (channel === "memory") return machine.guest.memory;
  if (channel === "disk:root") return machine.guest.disk;
  throw new Fault("notFound", "the machine has no such channel", { reason: "CHANNEL_UNKNOWN" });
}

function take(pages: PageFile, record: WireRecord): void {
  if (record.type === "page") pages.write(record.page, record.bytes);
  else if (record.type === "zero") pages.write(record.page, Buffer.alloc(pageBytes));
}

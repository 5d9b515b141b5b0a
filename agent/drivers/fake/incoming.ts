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
  /** In post-copy, once the guest's state is here. */
  #missing: Set<number> | undefined;
  #isSent = false;

  constructor(machine: FakeMachine, hold: Hold, log: Logger, onEnd: (arrived: boolean) => void) {
    this.#machine = machine;
    this.#hold = hold;
    this.#missing = hold.missing && new Set(hold.missing);
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

  /** It was committed: the guest runs as soon as its state is here, which may be now. */
  async run(): Promise<void> {
    if (this.#hold.committed) return;
    this.#hold = { ...this.#hold, committed: true };
    this.#follow();
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
        if (channel === "memory") this.#begin();
        if (record.type === "end") this.#finish(channel, pages, record.digest);
        else if (record.type === "state") this.#takeState(pages, record.missing);
        else if (channel !== "memory" || this.#isMissing(pages, record)) take(pages, record);
        stream.write(encodeRecord({ type: "taken", count: ++count }));
        if (record.type === "end") stream.write(encodeRecord({ type: "done" }));
      }
    } catch (fault) {
      this.#warn(channel, fault);
    }
    this.#open.delete(stream);
    stream.destroy();
    try {
      this.#keep();
      const { stage, memoryBegun } = this.#hold;
      if (!this.#closed && channel === "memory" && memoryBegun && stage === "incoming") this.#onEnd(false);
    } catch (fault) {
      this.#warn(channel, fault);
    }
  }

  #warn(channel: string, fault: unknown): void {
    if (!this.#closed) this.#log.warn("fake.incoming", { machine: this.#machine.id, channel, fault });
  }

  #begin(): void {
    if (!this.#hold.memoryBegun) this.#set({ ...this.#hold, memoryBegun: true });
  }

  #set(hold: Hold): void {
    this.#hold = hold;
    this.#machine.setHold(hold);
  }

  /** Told again by a new connection, it is known better here. */
  #takeState(pages: PageFile, bits: Buffer): void {
    if (this.#missing) return;
    const isSet = (page: number) => ((bits[page >> 3] ?? 0) & (1 << (page & 7))) !== 0;
    this.#missing = new Set(Array.from({ length: pages.pages }, (_, page) => page).filter(isSet));
    // From here on what is dirty was written to here.
    pages.markClean(pages.dirtyPages);
    this.#follow();
  }

  /** The guest runs once both are true: its state is here, and it was committed. */
  #follow(): void {
    const isReady = this.#missing !== undefined && this.#hold.committed && this.#hold.stage === "incoming";
    const missing = this.#missing && { missing: [...this.#missing] };
    this.#set({ ...this.#hold, ...missing, ...(isReady && { stage: "following" }) });
    if (isReady) this.#onEnd(true);
    if (this.#isSent) this.#finishFollowing();
  }

  #finishFollowing(): void {
    this.#isSent = true;
    if (this.#hold.stage !== "following") return;
    const { missing: _, ...hold } = this.#hold;
    this.#set({ ...hold, stage: "followed" });
    this.#onEnd(true);
  }

  /** In post-copy a page arrives once, and not over what the guest has written meanwhile. */
  #isMissing({ dirtyPages }: PageFile, record: WireRecord): boolean {
    if (!this.#missing || (record.type !== "page" && record.type !== "zero")) return true;
    return this.#missing.delete(record.page) && !dirtyPages.includes(record.page);
  }

  /** What has come since the guest runs is known to whoever takes the machine up. */
  #keep(): void {
    if (this.#missing && this.#hold.stage === "following")
      this.#set({ ...this.#hold, missing: [...this.#missing] });
  }

  #finish(channel: string, pages: PageFile, digest: Buffer): void {
    if (this.#missing && channel === "memory") return this.#finishFollowing();
    if (!pages.digest().equals(digest)) {
      throw new Fault("conflict", "what arrived is not what was sent", { reason: "MOVE_CORRUPT" });
    }
    if (channel !== "memory" && this.#machine.isOn) return;
    this.#set({ ...this.#hold, stage: "arrived" });
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

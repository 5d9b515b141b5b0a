/**
 * The agent's truth on disk: files per machine, so that a damaged one takes no other with it.
 *
 * Intent is flushed before it is visible: a command that was answered survives a power cut. Progress has
 * a file of its own, is visible at once and written soon, without a flush: it survives a kill, and what a
 * power cut takes of it the machine's next pass finds out again. What would break it: a second agent on
 * the same folder.
 */
import { mkdir, readdir, readFile, unlink } from "node:fs/promises";
import { join } from "node:path";
import { Fault, isFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { DurableFolder } from "./durable-file.ts";
import {
  decodeIntent,
  decodeProgress,
  encodeIntent,
  encodeProgress,
  isTombstone,
  type Intent,
  type LedgerEntry,
  newProgress,
  type Progress,
} from "./entry.ts";
import { admitFence } from "./fence.ts";

export interface LedgerOptions {
  readonly directory: string;
  readonly log: Logger;
  readonly now?: () => number;
}

const tombstoneLifeMs = 7 * 24 * 3600 * 1000;
/** How far sequence numbers may run ahead of what is on disk; a restart skips as many. */
const seqReserve = 1000n;

function emptySlot(id: string): Slot {
  return { id, entry: undefined, tail: Promise.resolve(), noting: undefined, seqOnDisk: 0n };
}

interface Slot {
  readonly id: string;
  entry: LedgerEntry | undefined;
  /** The end of this machine's queue of writes. */
  tail: Promise<unknown>;
  /** A write of progress that is queued and has not begun: later notes go with it. */
  noting: Promise<void> | undefined;
  seqOnDisk: bigint;
}

export class Ledger {
  readonly #folder: DurableFolder;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #slots = new Map<string, Slot>();
  /** Ids whose file cannot be read: nobody may command them until a person has looked. */
  readonly damaged: ReadonlySet<string>;
  /** What may still be in use by them, by their progress. */
  readonly #heldByDamaged: readonly string[];

  private constructor(
    options: LedgerOptions,
    entries: readonly LedgerEntry[],
    damaged: ReadonlyMap<string, Progress>,
  ) {
    this.#folder = new DurableFolder(options.directory);
    this.#log = options.log;
    this.#now = options.now ?? Date.now;
    this.damaged = new Set(damaged.keys());
    this.#heldByDamaged = [...damaged.values()].flatMap(({ devices }) => devices);
    for (const read of entries) {
      const seq = read.progress.seq + seqReserve;
      // A life that began after the tombstone and has noted nothing yet.
      const stale = read.progress.gone !== undefined && !isTombstone(read);
      const entry = { ...read, progress: stale ? newProgress(seq) : { ...read.progress, seq } };
      this.#slots.set(read.id, { ...emptySlot(read.id), entry, seqOnDisk: read.progress.seq });
    }
  }

  /** Reads what is there. A file that cannot be read is kept as it is and its machine named in `damaged`. */
  static async open(options: LedgerOptions): Promise<Ledger> {
    await mkdir(options.directory, { recursive: true, mode: 0o700 });
    const entries: LedgerEntry[] = [];
    const damaged = new Map<string, Progress>();
    for (const name of await readdir(options.directory)) {
      const path = join(options.directory, name);
      if (name.endsWith(".new")) await unlink(path); // a write that a kill cut off; the old file stands
      if (!name.endsWith(".intent")) continue;
      const id = name.slice(0, -".intent".length);
      try {
        const intent = decodeIntent(id, await readFile(path, "utf8"));
        entries.push({ id, intent, progress: await readProgress(options, id) });
      } catch (fault) {
        options.log.error("ledger.damaged", { path, fault });
        damaged.set(id, await readProgress(options, id));
      }
    }
    return new Ledger(options, entries, damaged);
  }

  find(id: string): LedgerEntry | undefined {
    return this.#slots.get(id)?.entry;
  }

  /** All entries, tombstones included. */
  list(): readonly LedgerEntry[] {
    return [...this.#slots.values()].flatMap(({ entry }) => entry ?? []);
  }

  /** Devices that were given to any machine but this one. */
  devicesOfOthers(id: string): ReadonlySet<string> {
    const others = this.list().filter((entry) => entry.id !== id);
    return new Set([...others.flatMap(({ progress }) => progress.devices), ...this.#heldByDamaged]);
  }

  /**
   * Accepts an intent if its fence allows it and makes it durable. Tells whether it is new: a replay
   * writes nothing. Throws as {@link admitFence} does, and `exhausted` on a full disk; then nothing changed.
   */
  accept(id: string, intent: Intent, same: (held: Intent) => boolean): Promise<"accept" | "replay"> {
    const slot = this.#slot(id);
    return this.#queue(slot, async () => {
      const held = slot.entry?.intent;
      const verdict = this.#admit(id, held, intent, same);
      if (verdict === "replay") return verdict;
      await this.#folder.write(`${id}.intent`, encodeIntent(id, intent));
      const before = slot.entry;
      const goesOn = before && !isTombstone(before);
      slot.entry = { id, intent, progress: goesOn ? before.progress : this.#firstProgress(before?.progress) };
      return verdict;
    });
  }

  /** Changes progress: visible at once, on disk when the promise resolves. Unknown machines have none. */
  note(id: string, change: Partial<Progress>): Promise<void> {
    const slot = this.#slot(id);
    if (!slot.entry) return Promise.resolve();
    slot.entry = { ...slot.entry, progress: { ...slot.entry.progress, ...change } };
    return (slot.noting ??= this.#queue(slot, async () => {
      slot.noting = undefined;
      if (!slot.entry) return;
      const { progress } = slot.entry;
      await this.#folder.overwrite(`${id}.progress`, encodeProgress(progress));
      slot.seqOnDisk = progress.seq;
    }));
  }

  /** As {@link note}, where a failed write costs little: it is logged, and the next write carries the change. */
  noteSoon(id: string, change: Partial<Progress>): void {
    this.note(id, change).catch((fault: unknown) => this.#log.error("ledger.write", { machine: id, fault }));
  }

  /** The machine's next sequence number. Grows over restarts, even over those that lost the last notes. */
  nextSeq(id: string): bigint {
    const slot = this.#slot(id);
    if (!slot.entry) return 0n;
    const seq = slot.entry.progress.seq + 1n;
    slot.entry = { ...slot.entry, progress: { ...slot.entry.progress, seq } };
    if (seq - slot.seqOnDisk > seqReserve / 2n) this.noteSoon(id, {});
    return seq;
  }

  /** Forgets machines that have been gone for seven days. */
  async prune(): Promise<void> {
    const before = this.#now() - tombstoneLifeMs;
    for (const slot of [...this.#slots.values()]) {
      const isOld = () =>
        slot.entry && isTombstone(slot.entry) && (slot.entry.progress.gone?.atMs ?? 0) < before;
      if (!isOld()) continue;
      await this.#queue(slot, async () => {
        if (!isOld()) return;
        // Progress first: an intent without it is a machine to remove once more, which does no harm.
        await this.#folder.remove(`${slot.id}.progress`);
        await this.#folder.remove(`${slot.id}.intent`);
        this.#slots.delete(slot.id);
      });
    }
  }

  /** Waits for the writes under way; for a clean end. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#slots.values()].map(({ tail }) => tail));
  }

  /** A life begins: it goes on counting from its tombstone, or, when nothing is known, from the clock. */
  #firstProgress(ended: Progress | undefined): Progress {
    return newProgress(ended?.seq ?? seqByClock(this.#now()));
  }

  #admit(id: string, held: Intent | undefined, intent: Intent, same: (held: Intent) => boolean) {
    if (this.damaged.has(id)) {
      throw new Fault("conflict", "the host's record of the machine is damaged and needs a person", {
        reason: "LEDGER_DAMAGED",
      });
    }
    try {
      return admitFence(held?.fence, intent.fence, () => held !== undefined && same(held));
    } catch (fault) {
      if (isFault(fault, "conflict")) this.#log.error("ledger.conflict", { machine: id, fault });
      throw fault;
    }
  }

  #slot(id: string): Slot {
    const known = this.#slots.get(id);
    if (known) return known;
    const slot = emptySlot(id);
    this.#slots.set(id, slot);
    return slot;
  }

  #queue<T>(slot: Slot, work: () => Promise<T>): Promise<T> {
    const result = slot.tail.then(work);
    slot.tail = result.catch(() => undefined); // told to whoever asked for it
    return result;
  }
}

/** A power cut may have taken the file: then the machine is looked at as if for the first time. */
async function readProgress(
  { directory, log, now = Date.now }: LedgerOptions,
  id: string,
): Promise<Progress> {
  const path = join(directory, `${id}.progress`);
  try {
    return decodeProgress(await readFile(path, "utf8"));
  } catch (fault) {
    log.warn("ledger.progress-lost", { path, fault });
    return newProgress(seqByClock(now()));
  }
}

/** Where counting begins when nothing is known: past all that may have been told before a record was lost. */
function seqByClock(nowMs: number): bigint {
  return BigInt(nowMs) * 1000n;
}

/**
 * Copies what was written to a disk since a migration onto the disk that the other host has kept since then, in rounds
 * while the guest goes on writing, and the last when it has stopped.
 *
 * Two bitmaps say at any time what the other disk lacks: what was written since the last round began, and what that
 * round has to copy. Both are QEMU's own, so that whoever finds them goes on with the copy. The guest's own writes wait
 * for nothing: the disk is read through an export of its own (see adr/0009-moving-back.md for why no job of QEMU's is
 * used). The bitmap that counts from the migration is only read.
 */
import type { BlockJob, DirtyBitmap } from "#agent/qmp/commands.ts";
import { NbdClient } from "#agent/nbd/client.ts";
import { copyContexts, copyDirty } from "#agent/nbd/copy.ts";
import { Fault, toFault } from "#kernel/fault.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import { unlessAborted } from "#kernel/stall.ts";
import { connect } from "node:net";
import { connectSocket } from "../../hypervisor/files.ts";
import type { RunningMachine } from "../running-machine.ts";
import { baselineBitmap, bitmapGranularity, readBitmaps } from "./baseline.ts";
import { diskChannel, exportOf, type MovedDisk, readSocketName, withShortPath } from "./channels.ts";
import { stopServer } from "./receive.ts";

const bitmaps = { written: "move-written", round: "move-round" } as const;

/** So little is left for the last round, however it came about. */
const littleBytes = 256 * 1024;
const lookMs = 250;
const openLimitMs = 10_000;
const answerLimitMs = 30_000;
/** The guest stands still. */
const lastRoundLimitMs = 10_000;

export interface DeltaCopyOptions {
  readonly machine: RunningMachine;
  /** The machine's. */
  readonly directory: string;
  readonly disk: MovedDisk;
  readonly baseline: string;
  readonly socketOf: (channel: string) => string;
}

export class DeltaCopy implements AsyncDisposable {
  readonly #options: DeltaCopyOptions;
  readonly #stop = new AbortController();
  readonly #last = new AbortController();
  #target: NbdClient | undefined;
  #work: Promise<void> | undefined;
  #ending: Promise<void> | undefined;
  #fault: Fault | undefined;
  #caughtUp = false;
  #finished = false;
  #copiedBytes = 0;
  #changedBytes = 0;
  #rounds = 0;
  #roundBytes = 0;
  #writtenBytes = 0;

  private constructor(options: DeltaCopyOptions) {
    this.#options = options;
  }

  /** Begins a copy. */
  static async begin(options: DeltaCopyOptions, signal: AbortSignal): Promise<DeltaCopy> {
    const { machine, disk, baseline } = options;
    const { node } = disk;
    const bitmap = { node, granularity: bitmapGranularity };
    // At one moment: nothing is written that neither of the two has.
    const actions = [
      { type: "block-dirty-bitmap-add", data: { ...bitmap, name: bitmaps.written } },
      { type: "block-dirty-bitmap-add", data: { ...bitmap, name: bitmaps.round, disabled: true } },
      {
        type: "block-dirty-bitmap-merge",
        data: { node, target: bitmaps.round, bitmaps: [baselineBitmap(baseline)] },
      },
    ] as const;
    await machine.execute("transaction", { actions }, signal);
    const copy = new DeltaCopy(options);
    copy.#follow();
    return copy;
  }

  /** Goes on with a copy that was begun by somebody else; undefined when none was. */
  static async find(options: DeltaCopyOptions, signal: AbortSignal): Promise<DeltaCopy | undefined> {
    const found = await readBitmaps(options.machine, options.disk.node, signal);
    if (!found.some(({ name }) => name === bitmaps.written)) return undefined;
    const copy = new DeltaCopy(options);
    copy.#follow();
    return copy;
  }

  /** As a job of QEMU's that did the same would look. */
  get job(): BlockJob {
    return {
      device: this.#options.disk.job,
      status: this.#finished ? "concluded" : this.#caughtUp ? "ready" : "running",
      ready: this.#caughtUp,
      len: this.#copiedBytes + this.#roundBytes + this.#writtenBytes,
      offset: this.#copiedBytes,
      "io-status": this.#fault ? "failed" : "ok",
    };
  }

  /** Bytes in which the disk differed from the kept one when its copy began, without what is zeros now. */
  get changedBytes(): number {
    return this.#changedBytes;
  }

  /** Goes on after it had stopped. */
  resume(): void {
    if (!this.#work) this.#follow();
  }

  /**
   * The guest has stopped for good: copies what is left. Whoever waits may give way to somebody who asks again; the copy
   * goes on meanwhile.
   */
  async finish(signal: AbortSignal): Promise<void> {
    this.#last.abort();
    this.#ending ??= this.#copyRest();
    this.#ending.catch(() => undefined); // told to whoever asks, if anybody does again
    await unlessAborted(this.#ending, signal);
  }

  async #copyRest(): Promise<void> {
    using limit = deadline(lastRoundLimitMs, "copying the last of the disk", this.#stop.signal);
    const late = () => this.#stop.abort(limit.reason);
    limit.addEventListener("abort", late, { once: true });
    try {
      await this.#work;
      if (this.#fault) throw this.#fault;
      await this.#catchUp(0);
      this.#finished = true;
    } finally {
      limit.removeEventListener("abort", late);
    }
  }

  /** Stops copying; what it had to copy stays marked. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Fault("unavailable", "the copy was given up", { reason: "CANCELLED" }));
    this.#target?.[Symbol.dispose]();
    await Promise.allSettled([this.#work, this.#ending]);
  }

  #follow(): void {
    this.#fault = undefined;
    this.#work = this.#run().catch((thrown: unknown) => {
      this.#fault = toFault(thrown);
      this.#target?.[Symbol.dispose]();
    });
    void this.#work.finally(() => (this.#work = undefined));
  }

  async #run(): Promise<void> {
    while (!this.#last.signal.aborted) {
      await this.#catchUp(littleBytes);
      this.#caughtUp = true;
      const pause = AbortSignal.any([this.#stop.signal, this.#last.signal]);
      await sleep(lookMs, pause).catch(() => undefined); // woken to do the last round, or to end
      this.#stop.signal.throwIfAborted();
    }
  }

  /** Copies what a round has begun with, if there is one, and then in another what was written, if that is too much. */
  async #catchUp(toleratedBytes: number): Promise<void> {
    const { machine, disk } = this.#options;
    const signal = this.#stop.signal;
    const begun = await this.#look(signal);
    if (begun) await this.#copyRound(begun.count, signal);
    if (begun) await this.#look(signal);
    if (this.#writtenBytes <= toleratedBytes) return;
    await machine.execute("transaction", { actions: nextRound(disk.node) }, signal);
    const round = await this.#look(signal);
    if (round) await this.#copyRound(round.count, signal);
  }

  /** Sees what was written; gives the bitmap of a round that is not copied yet. */
  async #look(signal: AbortSignal): Promise<DirtyBitmap | undefined> {
    const { machine, disk } = this.#options;
    const found = await readBitmaps(machine, disk.node, signal);
    const written = found.find(({ name }) => name === bitmaps.written);
    if (!written) throw lost();
    this.#writtenBytes = written.count;
    return found.find(({ name }) => name === bitmaps.round);
  }

  async #copyRound(bytes: number, signal: AbortSignal): Promise<void> {
    const { machine, directory, disk } = this.#options;
    const { name, node } = disk;
    this.#roundBytes = bytes;
    // A server that another agent has left has the bitmap of its round, or of none.
    await stopServer(machine, signal);
    await withShortPath(directory, readSocketName, (path) =>
      machine.execute("nbd-server-start", { addr: { type: "unix", data: { path } } }, signal),
    );
    const way = { type: "nbd", id: name, name, "node-name": node, writable: false } as const;
    await machine.execute("block-export-add", { ...way, bitmaps: [bitmaps.round] }, signal);
    const socket = await connectSocket(directory, readSocketName, signal);
    const reading = { name, contexts: copyContexts(bitmaps.round), limitMs: answerLimitMs };
    using source = await NbdClient.open(socket, reading, signal);
    const target = await this.#openTarget(signal);
    const close = () => {
      source[Symbol.dispose]();
      target[Symbol.dispose]();
    };
    signal.addEventListener("abort", close, { once: true });
    try {
      await copyDirty(source, target, ({ length, zero }) => {
        this.#copiedBytes += length;
        this.#roundBytes = Math.max(0, this.#roundBytes - length);
        if (this.#rounds === 0 && !zero) this.#changedBytes += length;
      });
      await target.flush();
    } finally {
      signal.removeEventListener("abort", close);
    }
    this.#roundBytes = 0;
    this.#rounds++;
    source[Symbol.dispose]();
    await stopServer(machine, signal);
    await machine.execute("block-dirty-bitmap-remove", { node, name: bitmaps.round }, signal);
  }

  /** The other host's disk is served under the name of what it was kept since: any other disk is not to be found. */
  async #openTarget(signal: AbortSignal): Promise<NbdClient> {
    if (this.#target?.isOpen) return this.#target;
    const { disk, baseline, socketOf } = this.#options;
    using limit = deadline(openLimitMs, "reaching the other host's disk", signal);
    const options = { name: exportOf(disk, baseline), limitMs: answerLimitMs };
    return (this.#target = await NbdClient.open(connect(socketOf(diskChannel(disk))), options, limit));
  }
}

/** Takes away what a copy has left in QEMU, without a trace. */
export async function dropDelta(
  machine: RunningMachine,
  disk: MovedDisk,
  signal: AbortSignal,
): Promise<void> {
  const names: readonly string[] = Object.values(bitmaps);
  const left = (await readBitmaps(machine, disk.node, signal)).filter(({ name }) => names.includes(name));
  if (left.length === 0) return;
  await stopServer(machine, signal);
  for (const { name } of left)
    await machine.execute("block-dirty-bitmap-remove", { node: disk.node, name }, signal);
}

/** At one moment: what was written so far becomes the round's. */
function nextRound(node: string) {
  const { written, round } = bitmaps;
  return [
    {
      type: "block-dirty-bitmap-add",
      data: { node, name: round, granularity: bitmapGranularity, disabled: true },
    },
    { type: "block-dirty-bitmap-merge", data: { node, target: round, bitmaps: [written] } },
    { type: "block-dirty-bitmap-clear", data: { node, name: written } },
  ] as const;
}

function lost(): Fault {
  return new Fault("conflict", "what was written to the disk is not known any more", {
    reason: "MOVE_DISK_LOST",
  });
}

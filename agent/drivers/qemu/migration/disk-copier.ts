/**
 * Copies a machine's disks to where they move: all that is not there first, then what the guest writes, until it stops.
 * To a new disk QEMU copies what there is on top of the image. To one that was kept only what was written since may go,
 * or, where that is not known, all of the disk: what was discarded since would otherwise still be there.
 */
import { Fault, isFault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import { allocatedBytes } from "../../hypervisor/disk.ts";
import { machineFiles } from "../../hypervisor/files.ts";
import type { RunningMachine } from "../running-machine.ts";
import { hasBaseline } from "./baseline.ts";
import { diskChannel, exportOf, type MovedDisk } from "./channels.ts";
import { DeltaCopy } from "./delta-copy.ts";
import type { Situation } from "./situation.ts";

/** A connection that was cut may take so long to come back before requests on it fail, and the copy stops. */
const reconnectSeconds = 10;
/** QEMU does nothing else while it opens the connection, and neither does the guest. */
const openSeconds = 3;
const beginTimeoutMs = 20_000;
const resumePauseMs = 1_000;
/** A copy that does not get on is taken up again and again for so long. */
const resumeLimitMs = 300_000;

export interface DiskCopierOptions {
  readonly machine: RunningMachine;
  /** The machine's. */
  readonly directory: string;
  /** The migration since which the other host has kept its disks; empty: they are new. */
  readonly baseline: string;
  readonly socketOf: (channel: string) => string;
}

export class DiskCopier implements AsyncDisposable {
  readonly machine: RunningMachine;
  readonly #options: DiskCopierOptions;
  readonly #released = new Set<string>();
  readonly #deltas = new Map<MovedDisk, DeltaCopy>();
  /** Of the disks of which only a part is copied: what all of them would be. */
  #wholeBytes = 0;
  #broken: { readonly sinceMs: number; readonly offset: number } | undefined;

  constructor(options: DiskCopierOptions) {
    this.machine = options.machine;
    this.#options = options;
  }

  /** What the other host had kept; undefined: nothing, or it is of no use. */
  get keptBytes(): number | undefined {
    if (this.#deltas.size === 0) return undefined;
    const changed = [...this.#deltas.values()].reduce((sum, { changedBytes }) => sum + changedBytes, 0);
    return Math.max(0, this.#wholeBytes - changed);
  }

  /** What QEMU says, with the copies that are ours. One that another agent had begun goes on. */
  async see(now: Situation, signal: AbortSignal): Promise<Situation> {
    const { baseline } = this.#options;
    for (const { disk, job } of now.disks) {
      if (job || baseline === "" || this.#deltas.has(disk)) continue;
      const found = await DeltaCopy.find({ ...this.#options, disk }, signal);
      if (found) await this.#take(disk, found);
    }
    const disks = now.disks.map(({ disk, job }) => ({ disk, job: this.#deltas.get(disk)?.job ?? job }));
    return { ...now, disks };
  }

  /** Not to be aborted half-way: the connection's other end is there for one attempt. */
  async mirror(disk: MovedDisk): Promise<void> {
    const { baseline } = this.#options;
    using limit = deadline(beginTimeoutMs, "beginning the disk's copy");
    if (baseline !== "" && (await hasBaseline(this.machine, baseline, limit))) {
      return this.#take(disk, await DeltaCopy.begin({ ...this.#options, disk }, limit));
    }
    const nodes = await this.machine.execute("query-named-block-nodes", { flat: true }, limit);
    // Connected by an agent that was killed before it could go on.
    if (!nodes.some((node) => node["node-name"] === disk.target)) await this.#connect(disk, limit);
    const job = {
      "job-id": disk.job,
      device: disk.node,
      target: disk.target,
      sync: baseline === "" ? "top" : "full",
      "copy-mode": "background",
      // It stops instead of ending, so that it can go on where it was.
      "on-target-error": "stop",
      // A job that ended stays until we have seen how.
      "auto-dismiss": false,
    };
    await this.machine.execute("blockdev-mirror", job, limit);
  }

  /** Goes on with a copy that stopped because its connection was away for long. */
  async resume(disk: MovedDisk, { disks }: Situation, signal: AbortSignal): Promise<void> {
    const offset = disks.find((state) => state.disk === disk)?.job?.offset ?? 0;
    const nowMs = performance.now();
    if (!this.#broken || offset > this.#broken.offset) this.#broken = { sinceMs: nowMs, offset };
    if (nowMs - this.#broken.sinceMs > resumeLimitMs) {
      throw new Fault("conflict", "the connection to the other host did not come back", {
        reason: "MOVE_DISK_LOST",
      });
    }
    const seen = this.machine.eventCount;
    const delta = this.#deltas.get(disk);
    if (delta) delta.resume();
    else await this.machine.execute("block-job-resume", { device: disk.job }, signal);
    await this.machine.eventAfter(seen, resumePauseMs, signal);
  }

  /** The guest has stopped: the copy ends as soon as it is equal. */
  async release(disk: MovedDisk, signal: AbortSignal): Promise<void> {
    if (this.#released.has(disk.job)) return;
    const delta = this.#deltas.get(disk);
    if (delta) await delta.finish(signal);
    else await this.machine.execute("block-job-cancel", { device: disk.job }, signal);
    this.#released.add(disk.job);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#deltas.values()].map((delta) => delta[Symbol.asyncDispose]()));
  }

  async #take(disk: MovedDisk, delta: DeltaCopy): Promise<void> {
    this.#deltas.set(disk, delta);
    const { rootDisk } = machineFiles(this.#options.directory);
    this.#wholeBytes += Number(await allocatedBytes(rootDisk));
  }

  async #connect(disk: MovedDisk, signal: AbortSignal): Promise<void> {
    const target = {
      driver: "nbd",
      "node-name": disk.target,
      server: { type: "unix", path: this.#options.socketOf(diskChannel(disk)) },
      export: exportOf(disk, this.#options.baseline),
      "reconnect-delay": reconnectSeconds,
      "open-timeout": openSeconds,
      discard: "unmap",
      "detect-zeroes": "unmap",
    };
    try {
      await this.machine.execute("blockdev-add", target, signal, beginTimeoutMs);
    } catch (thrown) {
      // QEMU says nothing but that it did not work.
      if (!isFault(thrown) || thrown.reason !== "QMP_COMMAND_FAILED") throw thrown;
      throw new Fault("unavailable", "the disk's way to the other host is not open", {
        reason: "MOVE_DISK_UNREACHABLE",
        cause: thrown,
      });
    }
  }
}

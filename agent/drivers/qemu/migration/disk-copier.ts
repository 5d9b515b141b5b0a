/** Has QEMU copy a machine's disks to where they move: all there is first, then what the guest writes, until it stops. */
import { Fault, isFault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import type { RunningMachine } from "../running-machine.ts";
import { diskChannel, type MovedDisk } from "./channels.ts";
import type { Situation } from "./situation.ts";

/** A connection that was cut may take so long to come back before requests on it fail, and the copy stops. */
const reconnectSeconds = 10;
/** QEMU does nothing else while it opens the connection, and neither does the guest. */
const openSeconds = 3;
const beginTimeoutMs = 20_000;
const resumePauseMs = 1_000;
/** A copy that does not get on is taken up again and again for so long. */
const resumeLimitMs = 300_000;

export class DiskCopier {
  readonly #machine: RunningMachine;
  readonly #socketOf: (channel: string) => string;
  readonly #released = new Set<string>();
  #broken: { readonly sinceMs: number; readonly offset: number } | undefined;

  constructor(machine: RunningMachine, socketOf: (channel: string) => string) {
    this.#machine = machine;
    this.#socketOf = socketOf;
  }

  /** Not to be aborted half-way: the connection's other end is there for one attempt. */
  async mirror(disk: MovedDisk): Promise<void> {
    using limit = deadline(beginTimeoutMs, "beginning the disk's copy");
    const nodes = await this.#machine.execute("query-named-block-nodes", { flat: true }, limit);
    // Connected by an agent that was killed before it could go on.
    if (!nodes.some((node) => node["node-name"] === disk.target)) await this.#connect(disk, limit);
    const job = {
      "job-id": disk.job,
      device: disk.node,
      target: disk.target,
      sync: "top",
      "copy-mode": "background",
      // It stops instead of ending, so that it can go on where it was.
      "on-target-error": "stop",
      // A job that ended stays until we have seen how.
      "auto-dismiss": false,
    };
    await this.#machine.execute("blockdev-mirror", job, limit);
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
    const seen = this.#machine.eventCount;
    await this.#machine.execute("block-job-resume", { device: disk.job }, signal);
    await this.#machine.eventAfter(seen, resumePauseMs, signal);
  }

  /** The guest has stopped: the copy ends as soon as it is equal. */
  async release(disk: MovedDisk, signal: AbortSignal): Promise<void> {
    if (this.#released.has(disk.job)) return;
    await this.#machine.execute("block-job-cancel", { device: disk.job }, signal);
    this.#released.add(disk.job);
  }

  async #connect(disk: MovedDisk, signal: AbortSignal): Promise<void> {
    const target = {
      driver: "nbd",
      "node-name": disk.target,
      server: { type: "unix", path: this.#socketOf(diskChannel(disk)) },
      export: disk.name,
      "reconnect-delay": reconnectSeconds,
      "open-timeout": openSeconds,
      discard: "unmap",
      "detect-zeroes": "unmap",
    };
    try {
      await this.#machine.execute("blockdev-add", target, signal, beginTimeoutMs);
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

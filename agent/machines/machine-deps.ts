/** What a machine's work stands on. */
import type { Logger } from "#kernel/log.ts";
import type { Image } from "#gen/skerry/agent/v1/machine_pb.js";
import type { LocalImage, MachineDriver } from "../drivers/driver.ts";
import type { ChangeFeed } from "./change-feed.ts";
import type { DeviceSource } from "./devices.ts";
import type { Ledger } from "./ledger.ts";
import type { MoveTransport } from "./move-transport.ts";
import type { RestartLimits } from "./restart-policy.ts";

/** Where machines get the files they are made from. */
export interface ImageSource {
  ensure(
    image: Image,
    progress: (done: bigint, total: bigint) => void,
    signal: AbortSignal,
  ): Promise<LocalImage>;
}

/** Whether machines with lease terms may run. */
export interface LeaseState {
  readonly holds: boolean;
}

export interface MachineTiming {
  /** Waits between attempts after a fault that may pass, and between restarts after a crash. */
  readonly backoff: { readonly baseMs: number; readonly capMs: number };
  /** Attempts on one intent before the machine is given up. */
  readonly attempts: number;
  readonly restarts: RestartLimits;
  /** Least time between two reports of the progress of an image or a move. */
  readonly progressMs: number;
  /** How a source waits for the other host, which may have to fetch an image first. */
  readonly pulls: PullTiming;
}

export interface PullTiming {
  readonly lookMs: number;
  /** What was begun ahead does not wait for longer. */
  readonly soonMs: number;
  /** Then the move fails. */
  readonly mostMs: number;
}

export const defaultTiming: MachineTiming = {
  backoff: { baseMs: 1000, capMs: 60_000 },
  attempts: 10,
  restarts: { crashes: 5, windowMs: 600_000 },
  progressMs: 500,
  pulls: { lookMs: 1_000, soonMs: 20_000, mostMs: 15 * 60_000 },
};

export interface MachineDeps {
  readonly driver: MachineDriver;
  readonly images: ImageSource;
  readonly ledger: Ledger;
  readonly changes: ChangeFeed;
  /** What containers may be given of the host's. Absent: nothing. */
  readonly devices?: DeviceSource;
  /** Absent: there is no lease here, and no machine with lease terms runs. */
  readonly lease?: LeaseState;
  /** Absent: no machine moves from or to this host. */
  readonly moves?: MoveTransport;
  readonly log: Logger;
  readonly timing: MachineTiming;
  readonly now: () => number;
  /** The folder that a machine gets. */
  readonly directoryOf: (id: string) => string;
}

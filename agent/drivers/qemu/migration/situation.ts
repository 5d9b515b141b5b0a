/** What is true at the source of a move right now, as its QEMU tells it. */
import type { BlockJob, MigrationInfo } from "#agent/qmp/commands.ts";
import type { RunningMachine } from "../running-machine.ts";
import { movedDisks, type MovedDisk } from "./channels.ts";

/** Always in flight while a guest writes. */
const littleBytes = 256 * 1024;
/**
 * Gone in about a second of a slow link, while the memory stream begins. With more, memory would be sent again and again
 * meanwhile, and a connection that is lost would cost the move, which the copy of a disk alone survives.
 */
const restBytes = 16 * 1024 * 1024;

export interface Situation {
  /** QEMU's run state, such as running, finish-migrate, postmigrate. */
  readonly runState: string;
  readonly migration: MigrationInfo;
  readonly disks: readonly DiskState[];
}

export interface DiskState {
  readonly disk: MovedDisk;
  /** Undefined when nothing copies it. */
  readonly job: BlockJob | undefined;
}

export async function readSituation(machine: RunningMachine, signal: AbortSignal): Promise<Situation> {
  const [{ status }, migration, jobs] = await Promise.all([
    machine.execute("query-status", {}, signal),
    machine.execute("query-migrate", {}, signal),
    machine.execute("query-block-jobs", {}, signal),
  ]);
  const disks = movedDisks.map((disk) => ({ disk, job: jobs.find(({ device }) => device === disk.job) }));
  return { runState: status, migration, disks };
}

/** The disk's copy is finished, and nothing was written that it lacks. */
export function isCopied({ job }: DiskState): boolean {
  return job?.status === "concluded" && job.error === undefined;
}

/** A copy stopped because its connection was away for long; it can go on. */
export function isStuck({ job }: DiskState): boolean {
  return job !== undefined && job.status !== "concluded" && job["io-status"] !== "ok";
}

/** All of the disk is copied, or the rest is so little that the memory need not wait for it. */
export function isNearlyEqual({ job }: DiskState): boolean {
  if (!job) return false;
  // A copy that has carried nothing yet may not know how much there is, and its way may be gone.
  return job.ready || (job.offset > 0 && job.len - job.offset <= restBytes);
}

/** So little of the disks is left that the guest may stop for it. */
export function areDisksNear(now: Situation, timeFor: (bytes: number) => number, allowedMs: number): boolean {
  const { remaining } = diskBytes(now);
  return !now.disks.some(isStuck) && (remaining <= littleBytes || timeFor(remaining) <= allowedMs);
}

/** Bytes of disk: all that the copies have to carry, and what is left of it. */
export function diskBytes({ disks }: Situation): { readonly total: number; readonly remaining: number } {
  const jobs = disks.flatMap(({ job }) => job ?? []);
  return {
    total: jobs.reduce((sum, { len }) => sum + len, 0),
    remaining: jobs.reduce((sum, { len, offset }) => sum + len - offset, 0),
  };
}

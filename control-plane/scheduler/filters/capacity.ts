import type { Filter } from "../policy.ts";

const MiB = 1024 ** 2;
const GiB = 1024 ** 3;

/** Room for the request in every dimension, beside what was promised already. */
export const capacity: Filter = {
  scope: "load",
  code: "capacity",
  verdict: "full",
  fit({ cpus, memoryBytes, diskBytes }) {
    return {
      // The worst dimension decides, as a share of what is asked for: half the memory missing is worse
      // than a tenth of the disk. An unknown amount (NaN) is no room.
      miss: ({ capacity: has, used }) =>
        Math.max(
          share(cpus, has.cpus - used.cpus),
          share(memoryBytes, has.memoryBytes - used.memoryBytes),
          share(diskBytes, has.diskBytes - used.diskBytes),
        ),
      reason({ capacity: has, used }) {
        const short = [
          shortage("CPUs", cpus - (has.cpus - used.cpus), formatCount),
          shortage("memory", memoryBytes - (has.memoryBytes - used.memoryBytes), formatBytes),
          shortage("disk", diskBytes - (has.diskBytes - used.diskBytes), formatBytes),
        ];
        return short.filter((text) => text !== "").join(", ");
      },
    };
  },
};

/** The part of `needed` that does not fit into `free`. Asking for nothing always fits, even if overdrawn. */
function share(needed: number, free: number): number {
  return needed <= 0 || free >= needed ? 0 : (needed - free) / needed;
}

function shortage(dimension: string, missing: number, format: (amount: number) => string): string {
  return missing > 0 ? `${dimension}: ${format(missing)} short` : "";
}

/** Rounded up, so that what is short is never shown as nothing. */
function roundUp(amount: number): string {
  return (Math.ceil(amount * 10) / 10).toFixed(1);
}

function formatCount(amount: number): string {
  return Number.isInteger(amount) ? String(amount) : roundUp(amount);
}

function formatBytes(bytes: number): string {
  return bytes < GiB ? `${roundUp(bytes / MiB)} MiB` : `${roundUp(bytes / GiB)} GiB`;
}

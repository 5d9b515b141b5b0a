/** Counters of a running machine, as libvirt keeps them. */
import type { DriverMetrics } from "../driver.ts";
import { allocatedBytes } from "../hypervisor/disk.ts";
import type { Virsh } from "./virsh.ts";

export interface MeteredMachine {
  readonly uuid: string;
  /** Its disk's name among the domain's. */
  readonly target: string;
  /** Where that is; undefined: only libvirt can reach it. */
  readonly rootDisk?: string;
}

/** The lines `name=value` that several of virsh's commands print. Pure. */
export function parseStats(text: string): ReadonlyMap<string, string> {
  const lines = text.matchAll(/^\s*([\w.-]+)[=:]\s*(.*?)\s*$/gm);
  return new Map(Array.from(lines, ([, name = "", value = ""]) => [name, value]));
}

/** A number among them; 0 when it is not told. Pure. */
export function statOf(stats: ReadonlyMap<string, string>, name: string): number {
  const value = Number(stats.get(name) ?? 0);
  return Number.isFinite(value) ? value : 0;
}

/** A statistic of the disk with this target, such as `capacity`. */
export function diskStat(stats: ReadonlyMap<string, string>, target: string, name: string): bigint {
  for (const [key, value] of stats) {
    const [, index] = /^block\.(\d+)\.name$/.exec(key) ?? [];
    if (index !== undefined && value === target) {
      return BigInt(Math.trunc(statOf(stats, `block.${index}.${name}`)));
    }
  }
  return 0n;
}

/** Network counters are zero for our own machines: nobody keeps any for user-mode networks. */
export async function readMetrics(
  virsh: Virsh,
  { uuid, target, rootDisk }: MeteredMachine,
  signal: AbortSignal,
): Promise<DriverMetrics | undefined> {
  const kinds = ["--state", "--cpu-total", "--balloon", "--block", "--interface"];
  const stats = parseStats(await virsh.run(["domstats", ...kinds, uuid], { signal }));
  const bytesOf = (name: string, unit = 1) => BigInt(Math.trunc(statOf(stats, name) * unit));
  if (!stats.has("cpu.time")) return undefined;
  const memoryTotalBytes = bytesOf("balloon.current", 1024);
  // A guest that does not tell is taken by what QEMU occupies, which its own needs may drive past the guest's.
  const resident = bytesOf("balloon.rss", 1024);
  const told = stats.has("balloon.usable") && stats.has("balloon.available");
  const used = told ? bytesOf("balloon.available", 1024) - bytesOf("balloon.usable", 1024) : resident;
  return {
    cpuSeconds: statOf(stats, "cpu.time") / 1e9,
    memoryUsedBytes: used < memoryTotalBytes ? used : memoryTotalBytes,
    memoryTotalBytes,
    diskReadBytes: diskStat(stats, target, "rd.bytes"),
    diskWriteBytes: diskStat(stats, target, "wr.bytes"),
    diskReadOperations: diskStat(stats, target, "rd.reqs"),
    diskWriteOperations: diskStat(stats, target, "wr.reqs"),
    networkInBytes: bytesOf("net.0.rx.bytes"),
    networkOutBytes: bytesOf("net.0.tx.bytes"),
    diskAllocatedBytes: rootDisk ? await allocatedBytes(rootDisk) : diskStat(stats, target, "allocation"),
  };
}

/** Counters of a running machine, as libvirt keeps them. */
import type { DriverMetrics } from "../driver.ts";
import { allocatedBytes } from "../hypervisor/disk.ts";
import type { Virsh } from "./virsh.ts";

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

/** Network counters are zero: nobody keeps any for user-mode networks. */
export async function readMetrics(
  virsh: Virsh,
  machine: { readonly uuid: string; readonly rootDisk: string },
  signal: AbortSignal,
): Promise<DriverMetrics | undefined> {
  const kinds = ["--state", "--cpu-total", "--balloon", "--block"];
  const stats = parseStats(await virsh.run(["domstats", ...kinds, machine.uuid], { signal }));
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
    diskReadBytes: bytesOf("block.0.rd.bytes"),
    diskWriteBytes: bytesOf("block.0.wr.bytes"),
    diskReadOperations: bytesOf("block.0.rd.reqs"),
    diskWriteOperations: bytesOf("block.0.wr.reqs"),
    networkInBytes: 0n,
    networkOutBytes: 0n,
    diskAllocatedBytes: await allocatedBytes(machine.rootDisk),
  };
}

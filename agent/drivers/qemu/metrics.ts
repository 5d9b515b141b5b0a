/** Counters of a running machine, from QEMU and from its process. */
import type { DriverMetrics } from "../driver.ts";
import { allocatedBytes } from "../hypervisor/disk.ts";
import { readMemory, readMemoryUse } from "./hotplug.ts";
import { processUsage } from "./process.ts";
import type { RunningMachine } from "./running-machine.ts";

/** Undefined when the machine ended meanwhile. Network counters are zero: QEMU keeps none for user-mode networks. */
export async function readMetrics(
  machine: RunningMachine,
  rootDisk: string,
  signal: AbortSignal,
): Promise<DriverMetrics | undefined> {
  const [usage, blocks, memory, memoryUse, diskAllocatedBytes] = await Promise.all([
    processUsage(machine.pid),
    machine.execute("query-blockstats", {}, signal),
    readMemory(machine, signal),
    readMemoryUse(machine, signal),
    allocatedBytes(rootDisk),
  ]);
  if (!usage) return undefined;
  const { residentBytes } = usage;
  const root = blocks.find((block) => block["node-name"] === "root")?.stats;
  const memoryTotalBytes = memory.bootBytes + memory.pluggedBytes;
  return {
    cpuSeconds: usage.cpuSeconds,
    // A guest that does not tell is taken by what QEMU occupies, which its own needs may drive past the guest's.
    memoryUsedBytes: memoryUse ?? (residentBytes < memoryTotalBytes ? residentBytes : memoryTotalBytes),
    memoryTotalBytes,
    diskReadBytes: BigInt(root?.rd_bytes ?? 0),
    diskWriteBytes: BigInt(root?.wr_bytes ?? 0),
    diskReadOperations: BigInt(root?.rd_operations ?? 0),
    diskWriteOperations: BigInt(root?.wr_operations ?? 0),
    networkInBytes: 0n,
    networkOutBytes: 0n,
    diskAllocatedBytes,
  };
}

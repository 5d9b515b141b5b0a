/** Gives a running machine what it grew by. What cannot be given while it runs is for its next start. */
import type { GuestMemoryStats } from "#agent/qmp/commands.ts";
import type { MachineSpec } from "#gen/skerry/agent/v1/machine_pb.js";
import { sleep } from "#kernel/retry.ts";
import { hotMemoryBlockBytes, roundUp } from "./launch.ts";
import type { RunningMachine } from "./running-machine.ts";

/** How long to wait for a guest that takes its new memory at once, as one that is up does. */
const guestTakesMemoryMs = 2_000;
const MiB = 1024n ** 2n;
const balloonPath = "/machine/peripheral/balloon0";

export interface MemoryState {
  /** Present at the start. */
  readonly bootBytes: bigint;
  /** Plugged in by the guest since. */
  readonly pluggedBytes: bigint;
  readonly requestedBytes: bigint;
  readonly pluggableBytes: bigint;
}

/** What the machine has of memory, as QEMU tells it. */
export async function readMemory(machine: RunningMachine, signal: AbortSignal): Promise<MemoryState> {
  const [summary, devices] = await Promise.all([
    machine.execute("query-memory-size-summary", {}, signal),
    machine.execute("query-memory-devices", {}, signal),
  ]);
  const hot = devices.find((device) => device.type === "virtio-mem")?.data;
  return {
    // What emulation needs beyond the whole MiB is nothing that was asked for.
    bootBytes: (BigInt(summary["base-memory"]) / MiB) * MiB,
    pluggedBytes: BigInt(hot?.size ?? 0),
    requestedBytes: BigInt(hot?.["requested-size"] ?? 0),
    pluggableBytes: BigInt(hot?.["max-size"] ?? 0),
  };
}

/** What to ask the guest to plug in, so that it gets as near to `wantedBytes` as can be. Pure. */
export function deriveHotMemory(memory: MemoryState, wantedBytes: bigint): bigint {
  const missing = wantedBytes - memory.bootBytes;
  if (missing <= 0n) return 0n;
  const rounded = roundUp(missing, hotMemoryBlockBytes);
  return rounded < memory.pluggableBytes ? rounded : memory.pluggableBytes;
}

/** Names of the spec's fields that the running machine does not meet. Pure. */
export function derivePendingRestart(
  spec: Pick<MachineSpec, "vcpus" | "memoryBytes">,
  found: { readonly vcpus: number; readonly memory: MemoryState },
): string[] {
  const { bootBytes, pluggedBytes } = found.memory;
  const missing = spec.memoryBytes - bootBytes;
  const memoryReached = missing >= 0n && pluggedBytes === roundUp(missing, hotMemoryBlockBytes);
  return [...(found.vcpus === spec.vcpus ? [] : ["cpus"]), ...(memoryReached ? [] : ["memory_bytes"])];
}

/** Plugs in the vCPUs that are missing, as far as there are slots. They are never unplugged: that has broken QEMU. */
export async function plugVcpus(machine: RunningMachine, wanted: number, signal: AbortSignal): Promise<void> {
  const slots = await machine.execute("query-hotpluggable-cpus", {}, signal);
  const present = slots.filter((slot) => slot["qom-path"] !== undefined).length;
  // QEMU lists the last slot first; filled from the front, a restart with as many vCPUs looks the same to the guest.
  const free = slots.filter((slot) => slot["qom-path"] === undefined).reverse();
  for (const slot of free.slice(0, Math.max(0, wanted - present))) {
    const id = `vcpu-${Object.values(slot.props).join("-")}`;
    await machine.execute("device_add", { driver: slot.type, id, ...slot.props }, signal);
  }
}

/** Asks the guest to take the memory it lacks, or to give back what was plugged in, and waits a moment for it. */
export async function plugMemory(
  machine: RunningMachine,
  wantedBytes: bigint,
  signal: AbortSignal,
): Promise<void> {
  const before = await readMemory(machine, signal);
  const goal = deriveHotMemory(before, wantedBytes);
  if (goal === before.requestedBytes) return;
  const property = { path: "/machine/peripheral/memory0", property: "requested-size", value: Number(goal) };
  await machine.execute("qom-set", property, signal);
  const until = performance.now() + guestTakesMemoryMs;
  while (performance.now() < until) {
    if ((await readMemory(machine, signal)).pluggedBytes === goal) return;
    await sleep(50, signal);
  }
}

/** Has the guest tell every ten seconds how it uses its memory, if it knows how to. */
export async function reportMemoryUse(machine: RunningMachine, signal: AbortSignal): Promise<void> {
  const property = { path: balloonPath, property: "guest-stats-polling-interval", value: 10 };
  await machine.execute("qom-set", property, signal);
}

/** Memory that the guest could not give to a program; undefined when it does not tell. */
export async function readMemoryUse(
  machine: RunningMachine,
  signal: AbortSignal,
): Promise<bigint | undefined> {
  const answer = await machine.execute("qom-get", { path: balloonPath, property: "guest-stats" }, signal);
  const { "last-update": told, stats } = answer as GuestMemoryStats;
  const total = stats["stat-total-memory"] ?? -1;
  const available = stats["stat-available-memory"] ?? -1;
  const plausible = available >= 0 && available <= total && Number.isSafeInteger(total);
  return told > 0 && plausible ? BigInt(total - available) : undefined;
}

/** Grows the root disk under the running guest. */
export async function growDisk(machine: RunningMachine, bytes: bigint, signal: AbortSignal): Promise<void> {
  await machine.execute("block_resize", { "node-name": "root", size: Number(bytes) }, signal);
}

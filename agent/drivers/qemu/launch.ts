/** What QEMU is started with, decided from the plan: sizes, and the room left for growing while it runs. */
import type { LocalImage, MachinePlan } from "../driver.ts";
import { machineFiles, type MachineFiles } from "../hypervisor/files.ts";
import { deriveIdentity, type MachineIdentity } from "../hypervisor/identity.ts";
import type { GuestShape } from "./shape.ts";

export interface Launch {
  readonly id: string;
  readonly identity: MachineIdentity;
  readonly files: MachineFiles;
  readonly image: LocalImage;
  readonly shape: GuestShape;
  /** With its firmware; standing still before that; or standing still until its state comes from another host. */
  readonly begins: "boot" | "still" | "incoming";
}

const MiB = 1024n ** 2n;
const GiB = 1024n ** 3n;

/** Guests plug memory in units of this; sizes in between are rounded up. */
export const hotMemoryBlockBytes = 4n * MiB;

const growth = 4;
const minimumMaxVcpus = 8;
const maximumMaxVcpus = 64;
/**
 * A kernel that sees room for memory above 4 GiB sets 64 MiB aside for devices that cannot reach there. Ours can; a kernel
 * that we start is told so, but one that boots from its own disk must be able to spare them.
 */
const memoryThatSparesBytes = 1n * GiB;
/** Emulated CPUs address 1 TiB; half of it leaves room for everything else. */
const memoryCeilingBytes = 512n * GiB;

/** The shape for a fresh start, with room to grow fourfold. It costs address space and page tables, not memory. Pure. */
export function deriveShape(
  plan: MachinePlan,
  model: Pick<GuestShape, "machineType" | "cpuModel">,
): GuestShape {
  const { vcpus, memoryBytes } = plan.spec;
  const spares = plan.image.type === "kernel" || memoryBytes >= memoryThatSparesBytes;
  const maxVcpus = Math.min(maximumMaxVcpus, Math.max(minimumMaxVcpus, vcpus * growth));
  const room = memoryBytes * BigInt(growth - 1);
  const belowCeiling = memoryCeilingBytes - memoryBytes;
  const hotMemoryBytes = roundUp(room < belowCeiling ? room : belowCeiling, 128n * MiB);
  return {
    ...model,
    vcpus,
    maxVcpus: Math.max(vcpus, maxVcpus),
    queues: vcpus,
    memoryBytes,
    hotMemoryBytes: spares && hotMemoryBytes > 0n ? hotMemoryBytes : 0n,
  };
}

/** A machine that is off is held by the smallest QEMU there is while its disk moves. Pure. */
export function deriveColdShape(model: Pick<GuestShape, "machineType" | "cpuModel">): GuestShape {
  return { ...model, vcpus: 1, maxVcpus: 1, queues: 1, memoryBytes: 64n * MiB, hotMemoryBytes: 0n };
}

/** Everything that the argument vector is made from. Pure. */
export function deriveLaunch(plan: MachinePlan, shape: GuestShape, begins: Launch["begins"]): Launch {
  return {
    id: plan.id,
    identity: deriveIdentity(plan.id),
    files: machineFiles(plan.directory),
    image: plan.image,
    shape,
    begins,
  };
}

/** The least multiple of `unit` that is not below `value`. */
export function roundUp(value: bigint, unit: bigint): bigint {
  return ((value + unit - 1n) / unit) * unit;
}

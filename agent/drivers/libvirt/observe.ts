/** A machine as the driver finds it: from libvirt while it runs, else from its folder and its plan. */
import type { DriverMachine, DriverState, MachinePlan } from "../driver.ts";
import { findDiskBytes, noRoom } from "../hypervisor/disk.ts";
import { machineFiles } from "../hypervisor/files.ts";
import { deriveIdentity } from "../hypervisor/identity.ts";
import type { FoundDomain } from "./library.ts";
import { select, textAt } from "./xml.ts";

export const memoryUnitBytes = 1024n ** 2n;

/** What a domain was started with. */
export interface DomainSize {
  readonly vcpus: number;
  readonly maxVcpus: number;
  readonly memoryBytes: bigint;
}

/** Reads the size from a domain's description. Pure. */
export function readSize({ description }: FoundDomain): DomainSize {
  const maxVcpus = Number(textAt(description, "vcpu"));
  const current = select(description, "vcpu")[0]?.attributes["current"];
  return {
    vcpus: current === undefined ? maxVcpus : Number(current),
    maxVcpus,
    // libvirt always writes kibibytes, whatever it was given.
    memoryBytes: BigInt(textAt(description, "memory") || "0") * 1024n,
  };
}

/** When it started, as its description says; undefined for a domain that is not of our making. Pure. */
export function readStart({ description }: FoundDomain): Date | undefined {
  const mark = select(description, "metadata", "skerry:machine")[0]?.attributes["started-at-ms"];
  return mark === undefined ? undefined : new Date(Number(mark));
}

/** libvirt gives memory in whole mebibytes. */
export function toMemoryBytes(bytes: bigint): bigint {
  return ((bytes + memoryUnitBytes - 1n) / memoryUnitBytes) * memoryUnitBytes;
}

/** Names of the spec's fields that the running machine does not meet. Pure. */
export function derivePendingRestart(
  { vcpus, memoryBytes }: Pick<MachinePlan["spec"], "vcpus" | "memoryBytes">,
  size: DomainSize,
): string[] {
  const memoryReached = toMemoryBytes(size.memoryBytes) === toMemoryBytes(memoryBytes);
  return [...(size.vcpus === vcpus ? [] : ["cpus"]), ...(memoryReached ? [] : ["memory_bytes"])];
}

export interface Observable {
  readonly plan: MachinePlan;
  /** What the driver is doing with it. */
  readonly transition: "starting" | "stopping" | undefined;
  /** It is to arrive from another host: it stands still here, and libvirt hears of it when it comes. */
  readonly isAwaited: boolean;
  /** It stands still since its host's disk is full. */
  readonly lacksRoom: boolean;
  readonly forwards: DriverMachine["forwards"];
}

export async function observe(
  { plan, transition, isAwaited, lacksRoom, forwards }: Observable,
  found: FoundDomain | undefined,
): Promise<DriverMachine> {
  const { id, spec, directory } = plan;
  const machine = {
    id,
    diskBytes: (await findDiskBytes(machineFiles(directory).rootDisk)) ?? 0n,
    guestAddress: deriveIdentity(id).network.guest,
  };
  if (!isOn(found)) {
    const { vcpus, memoryBytes } = spec;
    const off = { vcpus, memoryBytes, pendingRestart: [], forwards: [], startedAt: undefined };
    return {
      ...machine,
      ...off,
      state: transition ?? (isAwaited ? "paused" : "stopped"),
      acceleration: "none",
    };
  }
  const size = readSize(found);
  return {
    ...machine,
    state: transition ?? stateOf(found),
    vcpus: size.vcpus,
    memoryBytes: size.memoryBytes,
    pendingRestart: derivePendingRestart(spec, size),
    forwards,
    startedAt: readStart(found),
    acceleration: found.description.attributes["type"] === "kvm" ? "kvm" : "tcg",
    ...(lacksRoom && { stuck: noRoom }),
  };
}

/** Whether the domain is of this driver's making: its uuid is the one that its name gives. Pure. */
export function isOurs({ name, uuid }: FoundDomain): boolean {
  return deriveIdentity(name).uuid === uuid;
}

/** The machine that a domain was marked to be, ours or an adopted one. Pure. */
export function readAdopter({ description }: FoundDomain): string | undefined {
  return select(description, "metadata", "skerry:machine")[0]?.attributes["id"];
}

export function isOn(found: FoundDomain | undefined): found is FoundDomain {
  return found !== undefined && found.state !== "off";
}

/** Whether the guest was asked to shut down; it may do so at any moment from then on. Pure. */
export function isAskedToStop({ description }: FoundDomain): boolean {
  return select(description, "metadata", "skerry-stop:stop").length > 0;
}

export function stateOf(found: FoundDomain): DriverState {
  if (found.state === "off") return "stopped";
  return isAskedToStop(found) ? "stopping" : found.state;
}

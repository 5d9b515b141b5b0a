import type { ContainerFacts, HostFacts } from "#gen/skerry/agent/v1/host_pb.js";
import type { ForeignMachines } from "#gen/skerry/agent/v1/machine_pb.js";
import type { ForeignMachine, HostStatus } from "../resources/host/host.resource.ts";
import { machineStateOf } from "./machine.ts";

/** An agent's message about its host in the form in which it is stored. */
export function toHostStatus(
  facts: HostFacts,
): Omit<HostStatus, "connected" | "silence" | "unknown_machines" | "foreign_machines"> {
  return {
    hostname: facts.hostname,
    architecture: facts.architecture,
    operating_system: facts.operatingSystem,
    kernel: facts.kernel,
    agent_version: facts.agentVersion,
    cpu_model: facts.cpuModel,
    cpu_baseline: facts.cpuBaseline,
    ...toMeans(facts),
    driver: facts.driver,
    driver_version: facts.driverVersion,
    acceleration: facts.acceleration,
    acceleration_reason: facts.accelerationReason,
    capabilities: facts.capabilities,
    listen_address: facts.listenAddress,
    boot_id: facts.bootId,
    machine_types: facts.machineTypes,
    guest_cpu_model: facts.guestCpuModel,
  };
}

/** More than this no computer has, and a host that says so is believed in nothing: it can take nothing. */
const most = { cpus: 16_384, memory_bytes: 2 ** 50, disk_bytes: 2 ** 60, gpus: 256 } as const;

/** What it has to give. */
function toMeans({
  capacity: said,
  containers,
}: HostFacts): Pick<HostStatus, "capacity" | "containers" | "doubts"> {
  const capacity = {
    cpus: said?.cpus ?? 0,
    memory_bytes: Number(said?.memoryBytes ?? 0n),
    disk_bytes: Number(said?.diskBytes ?? 0n),
  };
  const gpus = containers ? gpusOf(containers) : [];
  const amounts = { ...capacity, gpus: gpus.length };
  const absurd = (["cpus", "memory_bytes", "disk_bytes", "gpus"] as const).filter(
    (each) => amounts[each] > most[each],
  );
  if (absurd.length === 0) {
    return { capacity, ...(containers && { containers: toContainers(containers, gpus) }) };
  }
  const doubts = absurd.map((each) => `it says that it has ${String(amounts[each])} ${each}`);
  return {
    capacity: { cpus: 0, memory_bytes: 0, disk_bytes: 0 },
    ...(containers && { containers: toContainers(containers, []) }),
    doubts,
  };
}

type ContainersStatus = NonNullable<HostStatus["containers"]>;

/** Each device once, and only where containers run. */
function gpusOf({ engine, gpus }: ContainerFacts): NonNullable<ContainersStatus["gpus"]> {
  if (engine === "") return [];
  const byDevice = new Map(gpus.map(({ device, vendor, model }) => [device, { device, vendor, model }]));
  return [...byDevice.values()];
}

function toContainers(
  { engine, version, reason, gpuProblems }: ContainerFacts,
  gpus: NonNullable<ContainersStatus["gpus"]>,
): ContainersStatus {
  return {
    ...{ engine, version, reason },
    ...(gpus.length > 0 && { gpus }),
    ...(gpuProblems.length > 0 && { gpu_problems: gpuProblems.slice(0, most.gpus) }),
  };
}

/** An agent's list of what others made on its host, in the form in which it is stored. */
export function toForeignMachines({ machines }: ForeignMachines): ForeignMachine[] {
  return machines.map((machine) => ({
    uuid: machine.uuid,
    name: machine.name,
    state: machineStateOf(machine.state),
    cpus: machine.vcpus,
    memory_bytes: Number(machine.memoryBytes),
    disks: machine.disks.map(({ target, sizeBytes, format }) => ({
      ...{ target, format },
      size_bytes: Number(sizeBytes),
    })),
    obstacles: machine.obstacles.map(({ code, message }) => ({ code, message })),
  }));
}

/** Whether two reports of a host say the same, as far as the second one says anything. */
export function sameHostStatus(a: HostStatus, b: Partial<HostStatus>): boolean {
  const keys = Object.keys(b) as (keyof HostStatus)[];
  return keys.every((key) => JSON.stringify(sorted(a[key])) === JSON.stringify(sorted(b[key])));
}

/** With the keys of all objects in one order: the database keeps them in one of its own. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, each]) => [key, sorted(each)]));
}

import type { HostFacts } from "#gen/skerry/agent/v1/host_pb.js";
import type { HostStatus } from "../resources/host/host.resource.ts";

/** An agent's message about its host in the form in which it is stored. */
export function toHostStatus(facts: HostFacts): Omit<HostStatus, "connected" | "unknown_machines"> {
  return {
    hostname: facts.hostname,
    architecture: facts.architecture,
    operating_system: facts.operatingSystem,
    kernel: facts.kernel,
    agent_version: facts.agentVersion,
    cpu_model: facts.cpuModel,
    cpu_baseline: facts.cpuBaseline,
    capacity: {
      cpus: facts.capacity?.cpus ?? 0,
      memory_bytes: Number(facts.capacity?.memoryBytes ?? 0n),
      disk_bytes: Number(facts.capacity?.diskBytes ?? 0n),
    },
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

/** Whether two reports of a host say the same. */
export function sameHostStatus(a: HostStatus, b: HostStatus): boolean {
  const keys = Object.keys(b) as (keyof HostStatus)[];
  return keys.every((key) => JSON.stringify(sorted(a[key])) === JSON.stringify(sorted(b[key])));
}

function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

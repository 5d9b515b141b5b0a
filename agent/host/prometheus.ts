/** What an agent tells Prometheus. As many lines whatever the number of machines: those are the control plane's to tell. */
import { type Machine, MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import type { HostMetrics } from "#gen/skerry/agent/v1/metrics_pb.js";
import { family, processFamilies } from "#kernel/prometheus.ts";

export interface AgentVitals {
  readonly host: HostMetrics;
  readonly machines: readonly Pick<Machine, "state">[];
  readonly connected: boolean;
  /** Changes that the control plane has not heard of. */
  readonly unreported: number;
  readonly leaseHolds: boolean;
  readonly boundRunning: number;
}

const states = Object.entries(MachineState).flatMap(([name, state]) =>
  typeof state === "number" ? [{ name: name.toLowerCase(), state }] : [],
);

export function toPrometheus(vitals: AgentVitals): string {
  const { host, machines, connected, unreported, leaseHolds, boundRunning } = vitals;
  const gauge = (name: string, help: string, value: number) => family(name, "gauge", help, [["", value]]);
  return [
    ...family(
      "skerry_agent_machines",
      "gauge",
      "Machines of this host by state.",
      states.map(({ name, state }) => [
        `{state="${name}"}`,
        machines.filter((machine) => machine.state === state).length,
      ]),
    ),
    ...gauge("skerry_agent_connected", "Whether the control plane is connected.", Number(connected)),
    ...gauge("skerry_agent_unreported_changes", "Changes that it has not heard of yet.", unreported),
    ...gauge(
      "skerry_agent_lease_holds",
      "Whether machines that are bound to the lease may run.",
      Number(leaseHolds),
    ),
    ...gauge("skerry_agent_bound_machines", "Running machines that are bound to it.", boundRunning),
    ...gauge("skerry_host_cpu_usage", "0 to 1, since the sample before.", host.cpuUsage),
    ...gauge("skerry_host_memory_used_bytes", "Memory in use.", Number(host.memoryUsedBytes)),
    ...gauge("skerry_host_memory_bytes", "Memory there is.", Number(host.memoryTotalBytes)),
    ...gauge("skerry_host_disk_used_bytes", "Of the agent's disk.", Number(host.diskUsedBytes)),
    ...gauge("skerry_host_disk_bytes", "Of the agent's disk.", Number(host.diskTotalBytes)),
    ...family("skerry_host_network_received_bytes_total", "counter", "Since the host's boot.", [
      ["", Number(host.networkInBytes)],
    ]),
    ...family("skerry_host_network_sent_bytes_total", "counter", "Since the host's boot.", [
      ["", Number(host.networkOutBytes)],
    ]),
    ...processFamilies(),
    "",
  ].join("\n");
}

/** What an agent tells Prometheus: all of it readable, and no more of it for more machines. */
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { toPrometheus } from "#agent/host/prometheus.ts";
import { MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import { HostMetricsSchema } from "#gen/skerry/agent/v1/metrics_pb.js";

const host = create(HostMetricsSchema, { cpuUsage: 0.5, memoryTotalBytes: 1n << 40n, networkInBytes: 7n });
const told = (machines: number) =>
  toPrometheus({
    host,
    machines: Array.from({ length: machines }, () => ({ state: MachineState.RUNNING })),
    ...{ connected: true, unreported: 2, leaseHolds: false, boundRunning: 0 },
  }).split("\n");

void t.test("metrics of an agent", async (t) => {
  const lines = told(1_000);
  for (const line of [
    'skerry_agent_machines{state="running"} 1000',
    'skerry_agent_machines{state="failed"} 0',
    "skerry_agent_connected 1",
    "skerry_agent_lease_holds 0",
    "skerry_agent_unreported_changes 2",
    "skerry_host_cpu_usage 0.5",
    "skerry_host_memory_bytes 1099511627776",
    "skerry_host_network_received_bytes_total 7",
  ])
    t.ok(lines.includes(line), line);
  t.equal(lines.length, told(0).length, "as many lines whatever the number of machines");
  const readable = /^(|# .*|[a-z_]+(\{[^}]*\})? [\d.e+-]+)$/;
  t.same(
    lines.filter((line) => !readable.test(line)),
    [],
  );
});

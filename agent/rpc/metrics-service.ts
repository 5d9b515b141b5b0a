import type { ServiceImpl } from "@connectrpc/connect";
import type { MetricsService } from "#gen/skerry/agent/v1/metrics_pb.js";
import type { HostSampler } from "../host/host-metrics.ts";
import type { MachineSampler } from "../host/machine-metrics.ts";
import type { MachineManager } from "../machines/manager.ts";
import { requireOperator } from "./caller.ts";

export interface MetricsServiceDeps {
  readonly manager: MachineManager;
  readonly hostSampler: HostSampler;
  readonly machineSampler: MachineSampler;
}

export function metricsService(deps: MetricsServiceDeps): ServiceImpl<typeof MetricsService> {
  return {
    async getHostMetrics(_request, context) {
      requireOperator(context);
      return { metrics: await deps.hostSampler.peek() };
    },
    async getMachineMetrics({ machineId }, context) {
      requireOperator(context);
      return { metrics: await deps.machineSampler.sample(deps.manager.get(machineId)) };
    },
  };
}

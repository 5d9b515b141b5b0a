/** All services of an agent, the same for the control plane, operators and other hosts. */
import type { Logger } from "#kernel/log.ts";
import { ConsoleService } from "#gen/skerry/agent/v1/console_pb.js";
import { HostService } from "#gen/skerry/agent/v1/host_pb.js";
import { ImageService } from "#gen/skerry/agent/v1/image_pb.js";
import { MachineService } from "#gen/skerry/agent/v1/machine_pb.js";
import { MigrationService } from "#gen/skerry/agent/v1/migration_pb.js";
import { MetricsService } from "#gen/skerry/agent/v1/metrics_pb.js";
import { WorkloadService } from "#gen/skerry/agent/v1/workload_pb.js";
import type { Consoles } from "../machines/console.ts";
import type { PullHandler } from "../migration/pull-handler.ts";
import { consoleService } from "./console-service.ts";
import { faultInterceptor } from "./faults.ts";
import type { AgentServices } from "./handler.ts";
import { healthRoutes, HealthState } from "./health.ts";
import { hostService, type HostServiceDeps } from "./host-service.ts";
import { imageService, type ImageServiceDeps } from "./image-service.ts";
import { machineService, type MachineServiceDeps } from "./machine-service.ts";
import { metricsService, type MetricsServiceDeps } from "./metrics-service.ts";
import { reflectionRoutes } from "./reflection.ts";
import { requestLogInterceptor } from "./request-log.ts";
import { workloadService, type WorkloadServiceDeps } from "./workload-service.ts";

export type ServicesDeps = MachineServiceDeps &
  MetricsServiceDeps &
  ImageServiceDeps &
  HostServiceDeps &
  WorkloadServiceDeps & { readonly consoles: Consoles; readonly pull: PullHandler; readonly log: Logger };

/** MigrationService is served beside the others, as plain streams: see pulls.ts. */
const offered = [
  MachineService,
  HostService,
  MetricsService,
  ConsoleService,
  ImageService,
  MigrationService,
  WorkloadService,
];

export function createServices(deps: ServicesDeps): { services: AgentServices; health: HealthState } {
  const health = new HealthState();
  const services: AgentServices = {
    routes(router) {
      router.service(MachineService, machineService(deps));
      router.service(HostService, hostService(deps));
      router.service(MetricsService, metricsService(deps));
      router.service(ConsoleService, consoleService(deps.consoles));
      router.service(ImageService, imageService(deps));
      router.service(WorkloadService, workloadService(deps));
      healthRoutes(offered, health)(router);
      reflectionRoutes(offered)(router);
    },
    interceptors: [requestLogInterceptor(deps.log), faultInterceptor(deps.log)],
    pull: deps.pull,
  };
  return { services, health };
}

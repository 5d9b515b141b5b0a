import { create } from "@bufbuild/protobuf";
import {
  ImageFileSchema,
  ImageSchema,
  ImageType,
  MachineSpecSchema,
  PortForwardSchema,
  Power,
  type MachineSpec,
} from "#gen/skerry/agent/v1/machine_pb.js";
import { ContainerSchema, HealthCheckSchema } from "#gen/skerry/agent/v1/workload_pb.js";
import type { Image } from "../image/image.resource.ts";
import { restartPolicies, toHostname } from "../instance/machine-spec.ts";
import { restartPolicyOf, type Workload } from "./workload.resource.ts";

/** What an agent is told to run for a workload. The same workload and image always give the same message. */
export function toContainerSpec({ id, name, desired }: Workload, image: Image | undefined): MachineSpec {
  const { health, command, environment } = desired;
  return create(MachineSpecSchema, {
    name,
    hostname: toHostname(name, id),
    image: create(ImageSchema, {
      id: image?.id ?? "",
      name: image?.name ?? desired.image,
      type: ImageType.CONTAINER,
      files: (image?.observed?.files ?? []).map((file) =>
        create(ImageFileSchema, { role: file.role, sha256: file.sha256, sizeBytes: BigInt(file.size_bytes) }),
      ),
    }),
    vcpus: desired.cpus,
    memoryBytes: BigInt(desired.memory_bytes),
    diskBytes: BigInt(Math.max(1, desired.disk_bytes)),
    power: desired.power === "on" ? Power.ON : Power.OFF,
    restarts: BigInt(desired.restarts),
    restartPolicy: restartPolicies[restartPolicyOf(desired)],
    stopTimeoutSeconds: desired.stop_timeout_seconds,
    forwards: desired.ports.map((port) =>
      create(PortForwardSchema, {
        protocol: port.protocol,
        guestPort: port.container_port,
        hostPort: port.host_port,
        hostAddress: port.host_address,
      }),
    ),
    container: create(ContainerSchema, {
      command,
      environment,
      gpus: desired.gpus,
      ...(health && {
        health: create(HealthCheckSchema, {
          command: health.command,
          intervalSeconds: health.interval_seconds,
          timeoutSeconds: health.timeout_seconds,
          retries: health.retries,
          startPeriodSeconds: health.start_period_seconds,
        }),
      }),
    }),
  });
}

import { create } from "@bufbuild/protobuf";
import {
  ImageFileSchema,
  ImageSchema,
  ImageType,
  MachineSpecSchema,
  PortForwardSchema,
  Power,
  RestartPolicy,
  type MachineSpec,
} from "#gen/skerry/agent/v1/machine_pb.js";
import type { Image } from "../image/image.resource.ts";
import { toAdoption } from "./instance.adopt.ts";
import { leaseTermsOf } from "./instance.lost.ts";
import type { Instance, InstanceSpec } from "./instance.resource.ts";

export const restartPolicies: Record<InstanceSpec["restart_policy"], RestartPolicy> = {
  always: RestartPolicy.ALWAYS,
  "on-failure": RestartPolicy.ON_FAILURE,
  never: RestartPolicy.NEVER,
};

/** What an agent is told to run for an instance. The same instance and image always give the same message. */
export function toMachineSpec(instance: Instance, image: Image | undefined): MachineSpec {
  const spec = instance.desired;
  return create(MachineSpecSchema, {
    name: instance.name,
    hostname: spec.hostname ?? toHostname(instance.name, instance.id),
    ...(image && { image: toImage(image) }),
    ...(spec.adopted && toAdoption(spec.adopted)),
    vcpus: spec.cpus,
    memoryBytes: BigInt(spec.memory_bytes),
    diskBytes: BigInt(spec.disk_bytes),
    power: spec.power === "on" ? Power.ON : Power.OFF,
    restarts: BigInt(spec.restarts),
    restartPolicy: restartPolicies[spec.restart_policy],
    stopTimeoutSeconds: spec.stop_timeout_seconds,
    forwards: spec.forwards.map((forward) =>
      create(PortForwardSchema, {
        protocol: forward.protocol,
        guestPort: forward.guest_port,
        hostPort: forward.host_port,
      }),
    ),
    sshKeys: [...spec.ssh_keys],
    userData: spec.user_data,
    leaseTerms: BigInt(leaseTermsOf(spec)),
  });
}

function toImage({ id, name, desired, observed }: Image): MachineSpec["image"] {
  return create(ImageSchema, {
    ...{ id, name, commandLine: desired.command_line },
    type: desired.type === "disk" ? ImageType.DISK : ImageType.KERNEL,
    files: (observed?.files ?? []).map((file) =>
      create(ImageFileSchema, {
        role: file.role,
        sha256: file.sha256,
        sizeBytes: BigInt(file.size_bytes),
        url: file.url,
        format: file.format,
      }),
    ),
  });
}

/** A host name label from the instance's name, or from its id when nothing of the name can be used. */
export function toHostname(name: string, id: string): string {
  const label = name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+/, "")
    .slice(0, 63)
    .replace(/-+$/, "");
  return label === "" ? id : label;
}

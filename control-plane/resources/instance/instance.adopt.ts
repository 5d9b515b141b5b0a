/** What is different about an instance that was on its host before this cloud. */
import { create } from "@bufbuild/protobuf";
import { AdoptionEnd, AdoptionSchema, type MachineSpec } from "#gen/skerry/agent/v1/machine_pb.js";
import { Fault } from "#kernel/fault.ts";
import type { Effects, StepResult } from "../../engine/controller.ts";
import type { PlacedOutput } from "./instance.decide.ts";
import type { Instance, InstanceSpec } from "./instance.resource.ts";

type Adopted = NonNullable<InstanceSpec["adopted"]>;

const ends: Record<Adopted["on_delete"], AdoptionEnd> = {
  "keep-disks": AdoptionEnd.STOP,
  "delete-disks": AdoptionEnd.DELETE,
  release: AdoptionEnd.RELEASE,
};

/** What becomes of it on its host when the instance is deleted. */
export function adoptionEndOf({ desired }: Instance): AdoptionEnd {
  return desired.adopted ? ends[desired.adopted.on_delete] : AdoptionEnd.UNSPECIFIED;
}

/** What tells the host which machine it is. */
export function toAdoption({ uuid }: Adopted): Pick<MachineSpec, "adoption"> {
  return { adoption: create(AdoptionSchema, { uuid }) };
}

/** There is nothing to choose: it is where it is, and only the promise of what it takes there is missing. */
export async function placeAdopted(
  effects: Effects,
  { desired }: Instance,
  { host_id: hostId }: Adopted,
): Promise<StepResult> {
  const host = await effects.findHost(hostId);
  if (!host) throw new Fault("notFound", "the host is no longer in this cloud", { reason: "HOST_GONE" });
  const { cpus, memory_bytes: memoryBytes, disk_bytes: diskBytes } = desired;
  await effects.promise({ hostId, cpus, memoryBytes, diskBytes });
  const { provider, region, zone } = host;
  return {
    done: { host_id: hostId } satisfies PlacedOutput,
    commit: async (writes) => {
      await writes.setProblem(undefined);
      await writes.place({
        host_id: hostId,
        provider,
        region,
        zone,
        explanation: { adopted: desired.adopted },
      });
    },
  };
}

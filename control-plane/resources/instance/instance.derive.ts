/** What an instance takes over from the flavor and the key pair that it names. */
import { Fault } from "#kernel/fault.ts";
import type { Resource } from "../definition.ts";
import type { FlavorSpec } from "../flavor/flavor.resource.ts";
import type { ImageSpec } from "../image/image.resource.ts";
import type { KeyPairSpec } from "../key-pair/key-pair.resource.ts";
import type { InstanceSpec } from "./instance.resource.ts";

type Given = Readonly<Record<string, unknown>>;

/** The spec with its sizes and keys; see `derive` in the definition of kinds. */
export function deriveSpec(
  spec: InstanceSpec,
  given: Given,
  { image, flavor, key_pair: keyPair }: Readonly<Record<string, Resource>>,
  previous: InstanceSpec | undefined,
): InstanceSpec {
  if (image && (image.desired as ImageSpec).type === "container") {
    throw refuse("image", "is a container's: run it as a workload", "IMAGE_OF_CONTAINER");
  }
  const own = { ...spec, on_host_loss_changes: countChanges(spec, previous) };
  const sized = flavor ? withFlavor(own, given, flavor, previous) : withOwnSize(own, previous);
  const least = image ? (image.desired as ImageSpec).min_disk_bytes : 0;
  if (sized.disk_bytes < least) {
    throw refuse("disk_bytes", `is at least ${String(least)} for this image`, "DISK_TOO_SMALL");
  }
  if (!keyPair) return sized;
  const { public_key: key } = keyPair.desired as KeyPairSpec;
  return { ...sized, key_pair: keyPair.name, ssh_keys: [...sized.ssh_keys, ...(key === null ? [] : [key])] };
}

/** Not for callers to give: by it a host that agreed to an earlier state of it is told from one that agreed to this. */
function countChanges(spec: InstanceSpec, previous: InstanceSpec | undefined): number {
  // An instance may be older than the field.
  const { on_host_loss = "wait", on_host_loss_changes = 0 }: Partial<InstanceSpec> = previous ?? spec;
  return previous ? on_host_loss_changes + (spec.on_host_loss === on_host_loss ? 0 : 1) : 0;
}

/** A flavor's disk is the least there is: one may ask for more, and what is there does not shrink. */
function withFlavor(
  spec: InstanceSpec,
  given: Given,
  { name, desired }: Resource,
  previous: InstanceSpec | undefined,
): InstanceSpec {
  const flavor = desired as FlavorSpec;
  if (!flavor.active) throw refuse("flavor", "is no longer offered", "FLAVOR_RETIRED");
  for (const [field, fixed] of [
    ["cpus", flavor.vcpus],
    ["memory_bytes", flavor.memory_bytes],
  ] as const) {
    if (given[field] !== undefined && given[field] !== fixed) {
      throw refuse(field, `is ${String(fixed)} in the flavor ${name}`, "VALIDATION_ERROR");
    }
  }
  const asked = given["disk_bytes"] === undefined ? flavor.disk_bytes : spec.disk_bytes;
  const disk_bytes = Math.max(asked, previous?.disk_bytes ?? 0);
  const gpus = spec.constraints.gpu?.count ?? 0;
  if (previous ? gpus !== flavor.gpu_count : gpus > 0 && gpus !== flavor.gpu_count) {
    throw refuse("constraints.gpu", `${String(flavor.gpu_count)} in the flavor ${name}`, "VALIDATION_ERROR");
  }
  const gpu = flavor.gpu_count > 0 ? { model: null, ...spec.constraints.gpu, count: flavor.gpu_count } : null;
  const constraints = { ...spec.constraints, gpu };
  return {
    ...spec,
    constraints,
    flavor: name,
    cpus: flavor.vcpus,
    memory_bytes: flavor.memory_bytes,
    disk_bytes,
  };
}

/** Other CPUs or memory than its flavor's: the size is its own from then on. */
function withOwnSize(spec: InstanceSpec, previous: InstanceSpec | undefined): InstanceSpec {
  const same = spec.cpus === previous?.cpus && spec.memory_bytes === previous.memory_bytes;
  return same || !previous ? spec : { ...spec, flavor: null };
}

const refuse = (field: string, message: string, reason: string) =>
  new Fault("invalid", `spec.${field}: ${message}`, {
    reason,
    detail: { fields: [{ field: `spec.${field}`, message }] },
  });

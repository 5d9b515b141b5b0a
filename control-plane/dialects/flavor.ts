/** What two dialects tell of a flavor in the same words. */
import { z } from "zod";
import type { Flavor, FlavorPhase } from "../resources/flavor/flavor.resource.ts";
import { toGigabytes, toMegabytes } from "./sizes.ts";

export const flavorPhases = {
  available: "available",
  retired: "retired",
  deleting: "deleting",
} as const satisfies Record<FlavorPhase, string>;

export const flavorWire = z.object({
  flavor_id: z.string(),
  name: z.string(),
  vcpus: z.int(),
  memory_mb: z.int(),
  disk_gb: z.number(),
  gpu_count: z.int(),
  network_bandwidth_gbps: z.number(),
  is_active: z.boolean(),
});

/** @param id as the dialect calls it */
export const encodeFlavor = (id: string, { name, desired }: Flavor): z.infer<typeof flavorWire> => ({
  flavor_id: id,
  name,
  vcpus: desired.vcpus,
  memory_mb: toMegabytes(desired.memory_bytes),
  disk_gb: toGigabytes(desired.disk_bytes),
  gpu_count: desired.gpu_count,
  network_bandwidth_gbps: desired.network_bandwidth_gbps,
  is_active: desired.active,
});

import { z } from "zod";
import { flavor, type Flavor, type FlavorPhase } from "../../resources/flavor/flavor.resource.ts";
import { defineKind } from "../define-kind.ts";
import { withPrefix } from "../dialect.ts";
import { toGigabytes, toMegabytes } from "../sizes.ts";

const phases = {
  available: "available",
  retired: "retired",
  deleting: "deleting",
} as const satisfies Record<FlavorPhase, string>;

const wire = z.object({
  flavor_id: z.string(),
  name: z.string(),
  vcpus: z.int(),
  memory_mb: z.int(),
  disk_gb: z.number(),
  gpu_count: z.int(),
  network_bandwidth_gbps: z.number(),
  hourly_cost_usd: z.number(),
  is_active: z.boolean(),
});

export const flavorKind = defineKind({
  definition: flavor,
  path: "/compute/flavors",
  idName: "flavor",
  noun: "Flavor",
  type: "Flavor",
  types: "Flavors",
  idPrefix: "flv",
  named: true,
  phases,
  fields: {},
  wire,
  encode: ({ id, name, desired }: Flavor): z.infer<typeof wire> => ({
    flavor_id: withPrefix(id, "flv"),
    name,
    vcpus: desired.vcpus,
    memory_mb: toMegabytes(desired.memory_bytes),
    disk_gb: toGigabytes(desired.disk_bytes),
    gpu_count: desired.gpu_count,
    network_bandwidth_gbps: desired.network_bandwidth_gbps,
    hourly_cost_usd: Number(desired.hourly_cost_usd),
    is_active: desired.active,
  }),
  pageSize: 20,
  filters: z.object({}),
  toQuery: () => ({}),
});

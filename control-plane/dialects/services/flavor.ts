import { z } from "zod";
import type { ResourceApi } from "../../app/resource-api.ts";
import { defineRoute, type Call, type Route } from "../../http/route.ts";
import { flavor, type Flavor, type FlavorPhase } from "../../resources/flavor/flavor.resource.ts";
import { normaliseImageName } from "../../resources/image/image.resource.ts";
import { defineKind } from "../define-kind.ts";
import type { Dialect, ListParameters } from "../dialect.ts";
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
  network_bandwidth_gbps: z.number(),
  gpu_count: z.int(),
  hourly_cost_usd: z.string(),
  is_active: z.boolean(),
  is_gpu: z.boolean(),
});

const encode = ({ name, desired }: Flavor): z.infer<typeof wire> => ({
  flavor_id: normaliseImageName(name),
  name,
  vcpus: desired.vcpus,
  memory_mb: toMegabytes(desired.memory_bytes),
  disk_gb: toGigabytes(desired.disk_bytes),
  network_bandwidth_gbps: desired.network_bandwidth_gbps,
  gpu_count: desired.gpu_count,
  hourly_cost_usd: desired.hourly_cost_usd,
  is_active: desired.active,
  is_gpu: desired.gpu_count > 0,
});

const pageSize = 20;
/** More than a catalogue ever has. */
const most = 1000;

export const flavorKind = defineKind({
  definition: flavor,
  path: "/flavors",
  idName: "flavor_id",
  noun: "Flavor",
  type: "Flavor",
  types: "Flavors",
  idPrefix: "flv",
  named: true,
  phases,
  fields: {},
  wire,
  encode,
  pageSize,
  filters: z.object({}),
  toQuery: () => ({}),
});

/** The flavors that have a GPU. */
export function gpuFlavorsRoute({ base, pathEnd, paging }: Dialect, resources: ResourceApi): Route {
  return defineRoute({
    method: "GET",
    path: `${base}${flavorKind.path}/gpu_flavors${pathEnd}`,
    operationId: "listGpuFlavors",
    summary: "List flavors with a GPU",
    tag: "flavors",
    role: flavor.access.read,
    query: z.strictObject(paging.parameters(pageSize)),
    answers: { 200: { description: "a page", schema: paging.schema(wire, "flavors") } },
    async handle(call: Call<ListParameters>) {
      const { items } = await resources.list(call.ctx, flavor, { limit: most });
      const found = items.map((item) => flavorKind.encode(item as Flavor)).filter(({ is_gpu }) => is_gpu);
      const range = paging.range(call.query, pageSize);
      const page = found.slice(range.offset, range.offset + range.limit);
      const of = { items: page, total: found.length, plural: "flavors" };
      return { status: 200, ...paging.encode(of, range, call) };
    },
  });
}

import { z } from "zod";
import type { ResourceApi } from "../../app/resource-api.ts";
import { defineRoute, type Call, type Route } from "../../http/route.ts";
import { flavor, type Flavor } from "../../resources/flavor/flavor.resource.ts";
import { normaliseImageName } from "../../resources/image/image.resource.ts";
import { defineKind } from "../define-kind.ts";
import type { Dialect, ListParameters } from "../dialect.ts";
import { encodeFlavor, flavorPhases, flavorWire } from "../flavor.ts";

const wire = flavorWire.extend({ hourly_cost_usd: z.string(), is_gpu: z.boolean() });

const encode = (one: Flavor): z.infer<typeof wire> => ({
  ...encodeFlavor(normaliseImageName(one.name), one),
  hourly_cost_usd: one.desired.hourly_cost_usd,
  is_gpu: one.desired.gpu_count > 0,
});

const exampleGpu: z.infer<typeof wire> = {
  flavor_id: "g1-large",
  name: "g1.large",
  vcpus: 4,
  memory_mb: 16_384,
  disk_gb: 120,
  gpu_count: 1,
  network_bandwidth_gbps: 5,
  is_active: true,
  hourly_cost_usd: "0.5260",
  is_gpu: true,
};

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
  phases: flavorPhases,
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
    answers: {
      200: { description: "a page", schema: paging.schema(wire, "flavors"), parts: { Flavor: wire } },
    },
    examples: { answers: { 200: [exampleGpu] } },
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

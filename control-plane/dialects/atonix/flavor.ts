import { z } from "zod";
import { flavor, type Flavor } from "../../resources/flavor/flavor.resource.ts";
import { defineKind } from "../define-kind.ts";
import { withPrefix } from "../dialect.ts";
import { encodeFlavor, flavorPhases, flavorWire } from "../flavor.ts";

const wire = flavorWire.extend({ hourly_cost_usd: z.number() });

export const flavorKind = defineKind({
  definition: flavor,
  path: "/compute/flavors",
  idName: "flavor",
  noun: "Flavor",
  type: "Flavor",
  types: "Flavors",
  idPrefix: "flv",
  named: true,
  phases: flavorPhases,
  fields: {},
  wire,
  encode: (one: Flavor): z.infer<typeof wire> => ({
    ...encodeFlavor(withPrefix(one.id, "flv"), one),
    hourly_cost_usd: Number(one.desired.hourly_cost_usd),
  }),
  pageSize: 20,
  filters: z.object({}),
  toQuery: () => ({}),
});

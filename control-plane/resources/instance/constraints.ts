/** What an instance asks of the place that it gets, beside room. */
import { z } from "zod";
import { groupRules, type GroupWish } from "../../engine/groups.ts";
import type { PlacementRequest } from "../../scheduler/snapshot.ts";

const word = z.string().min(1).max(63);

export const instanceConstraints = z.strictObject({
  near: z
    .strictObject({ latitude: z.number().min(-90).max(90), longitude: z.number().min(-180).max(180) })
    .nullable()
    .default(null)
    .describe("where its users are"),
  countries: z.array(z.string().min(1).max(255)).max(64).default([]).describe("empty: any"),
  max_price: z
    .strictObject({ amount: z.number().min(0), currency: z.string().length(3).describe("ISO 4217") })
    .nullable()
    .default(null)
    .describe("per hour"),
  gpu: z
    .strictObject({ count: z.int().min(1).max(64), model: word.nullable().default(null) })
    .nullable()
    .default(null),
  tolerations: z.array(word).max(32).default([]).describe("taints of hosts that it puts up with"),
  groups: z
    .array(z.strictObject({ name: word, rule: z.enum(groupRules) }))
    .max(8)
    .default([])
    .describe(
      "of instances of the project that are to share a host, to be on different ones, or in many zones",
    ),
});
export type InstanceConstraints = z.infer<typeof instanceConstraints>;

interface Constrained {
  readonly id: string;
  readonly project: string;
  /** Without constraints when it is older than they are. */
  readonly desired: { readonly constraints?: InstanceConstraints };
}

/** The same as it is asked of the scheduler. */
export function constraintsOf({ id, project, desired }: Constrained): Partial<PlacementRequest> & {
  readonly within?: GroupWish;
} {
  const { constraints } = desired;
  if (!constraints) return {};
  const { near, countries, max_price: maxPrice, gpu, tolerations, groups } = constraints;
  return {
    ...(near && { near }),
    ...(countries.length > 0 && { countries }),
    ...(maxPrice && { maxPrice }),
    ...(gpu && { gpus: gpu.count, ...(gpu.model !== null && { gpuModel: gpu.model }) }),
    ...(tolerations.length > 0 && { tolerations }),
    ...(groups.length > 0 && { within: { resourceId: id, project, groups } }),
  };
}

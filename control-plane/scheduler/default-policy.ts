import { Fault } from "#kernel/fault.ts";
import type { Policy } from "./policy.ts";
import { architecture } from "./filters/architecture.ts";
import { country } from "./filters/country.ts";
import { apart, together } from "./filters/group.ts";
import { containerGpu, gpu } from "./filters/gpu.ts";
import { maxPrice } from "./filters/max-price.ts";
import { tainted } from "./filters/tainted.ts";
import { capacity } from "./filters/capacity.ts";
import { capability } from "./filters/capability.ts";
import { cordoned } from "./filters/cordoned.ts";
import { cpuBaseline } from "./filters/cpu-baseline.ts";
import { excluded } from "./filters/excluded.ts";
import { guestCpu } from "./filters/guest-cpu.ts";
import { host } from "./filters/host.ts";
import { image } from "./filters/image.ts";
import { machineType } from "./filters/machine-type.ts";
import { online } from "./filters/online.ts";
import { provider } from "./filters/provider.ts";
import { region } from "./filters/region.ts";
import { cost } from "./scorers/cost.ts";
import { distance } from "./scorers/distance.ts";
import { packing } from "./scorers/packing.ts";
import { spread } from "./scorers/spread.ts";

export type Weights = {
  readonly cost: number;
  readonly distance: number;
  readonly packing: number;
  readonly spread: number;
};

/**
 * Cost and distance are what users feel. Between hosts that are alike in both a hash decides, which spreads load, damage
 * and the promises that are asked for at once. Packing is for who wants whole hosts kept free for what is large, and it
 * costs: the last room of a cheap place goes to large machines then, where small ones, which have more CPUs for their
 * memory, would save more. With 0.01 placements were up to 0.1 % dearer than on the cheapest host with room with 6 seeds
 * of 10, as a mere tie-break with 9 of 10, and at 0.25 by 1 to 3 % (`npm run sim`).
 */
export const defaultWeights: Weights = { cost: 1, distance: 1, packing: 0, spread: 1 };

/** Every filter, cheap and telling first, and every scorer that has a weight. */
export function defaultPolicy(weights: Weights = defaultWeights): Policy {
  for (const [scorer, weight] of Object.entries(weights)) {
    if (!(weight >= 0 && weight < Infinity)) {
      throw new Fault("invalid", `the weight of ${scorer} must be a number of 0 or more`, {
        reason: "WEIGHT_INVALID",
        detail: { scorer, weight: String(weight) },
      });
    }
  }
  return {
    filters: [
      host,
      together,
      online,
      cordoned,
      tainted,
      provider,
      region,
      country,
      architecture,
      image,
      capability,
      machineType,
      guestCpu,
      cpuBaseline,
      maxPrice(),
      gpu,
      containerGpu,
      capacity,
      apart,
      excluded,
    ],
    scorers: [
      { scorer: cost(), weight: weights.cost },
      { scorer: distance(), weight: weights.distance },
      { scorer: spread, weight: weights.spread },
      { scorer: packing, weight: weights.packing },
    ].filter(({ weight }) => weight > 0),
  };
}

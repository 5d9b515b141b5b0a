import type { Scorer } from "../policy.ts";
import { zoneOf } from "../snapshot.ts";

/** How few of its group are in the host's zone: none scores 1, one 1/2, two 1/3. */
export const spread: Scorer = {
  name: "spread",
  scope: "labels",
  fit({ inZones }) {
    if (inZones === undefined) return undefined;
    const count = new Map(inZones);
    return {
      score: (host) => 1 / (1 + (count.get(zoneOf(host)) ?? 0)),
      measure: (host) => `${String(count.get(zoneOf(host)) ?? 0)} of its group in the zone`,
      amount: (host) => ({ value: count.get(zoneOf(host)) ?? 0, unit: "" }),
    };
  },
};

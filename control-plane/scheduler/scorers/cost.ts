import type { Scorer } from "../policy.ts";
import { defaultCostScale, perHour, rateOf, type CostScale } from "../prices.ts";
import type { HostSnapshot, PlacementRequest } from "../snapshot.ts";

/** Free or not is as much as a metre near by, and half a kilometre at the far side of the earth. */
const besideDistance = 1e-6;

/**
 * What the request costs per hour on a host, against the same request at reference prices: free
 * scores 1, the reference 1/2, three times the reference 1/4. A host without a price that can be
 * compared scores as the reference does: a missing price sheet must neither draw instances nor repel them.
 */
export function cost(scale: CostScale = defaultCostScale): Scorer {
  return {
    name: "cost",
    scope: "labels",
    fit(request) {
      const reference = perHour(scale.reference, request);
      return {
        ...(request.near && request.nearestFirst && { emphasis: besideDistance }),
        score({ prices }) {
          const rate = rateOf(prices, scale);
          if (prices === undefined || rate === undefined) return 0.5;
          const price = perHour(prices, request) * rate;
          return price === 0 ? 1 : reference / (reference + price);
        },
        measure: (host) => describePrice(host, request, scale),
        amount: ({ prices }) => prices && { value: perHour(prices, request), unit: `${prices.currency}/h` },
      };
    },
  };
}

function describePrice({ prices }: HostSnapshot, request: PlacementRequest, scale: CostScale): string {
  if (prices === undefined) return "no price";
  const price = perHour(prices, request);
  const digits = price === 0 || price >= 0.01 ? price.toFixed(3) : price.toPrecision(2);
  const known = rateOf(prices, scale) !== undefined;
  return `${digits} ${prices.currency}/h${known ? "" : ` (no rate to ${scale.reference.currency})`}`;
}

import type { Scorer } from "../policy.ts";
import type { Amounts, HostSnapshot, HourlyPrices, PlacementRequest } from "../snapshot.ts";

const GiB = 1024 ** 3;
const hoursPerMonth = 730;

export interface CostScale {
  /** The price of a host that scores one half. */
  readonly reference: HourlyPrices;
  /** What one unit of another currency is worth in the reference's. */
  readonly rates: ReadonlyMap<string, number>;
}

/** Rough rates are good enough to rank by; an operator who pays in several currencies sets their own. */
export const defaultCostScale: CostScale = {
  reference: { cpuPerHour: 0.05, memoryGibPerHour: 0.01, currency: "USD" },
  rates: new Map([
    ["AUD", 0.66],
    ["CAD", 0.73],
    ["CHF", 1.2],
    ["CNY", 0.14],
    ["EUR", 1.1],
    ["GBP", 1.3],
    ["INR", 0.012],
    ["JPY", 0.0067],
  ]),
};

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

function rateOf(prices: HourlyPrices | undefined, { reference, rates }: CostScale): number | undefined {
  if (prices === undefined) return undefined;
  return prices.currency === reference.currency ? 1 : rates.get(prices.currency);
}

/** What a request costs in an hour, in the currency of the prices. */
export function perHour(prices: HourlyPrices, { cpus, memoryBytes, diskBytes }: Amounts): number {
  const disk = ((prices.diskGibPerMonth ?? 0) / hoursPerMonth) * (diskBytes / GiB);
  return prices.cpuPerHour * cpus + prices.memoryGibPerHour * (memoryBytes / GiB) + disk;
}

function describePrice({ prices }: HostSnapshot, request: PlacementRequest, scale: CostScale): string {
  if (prices === undefined) return "no price";
  const price = perHour(prices, request);
  const digits = price === 0 || price >= 0.01 ? price.toFixed(3) : price.toPrecision(2);
  const known = rateOf(prices, scale) !== undefined;
  return `${digits} ${prices.currency}/h${known ? "" : ` (no rate to ${scale.reference.currency})`}`;
}

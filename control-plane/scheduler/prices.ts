/** What a request costs on a host, and currencies beside each other. */
import type { Amounts, HourlyPrices } from "./snapshot.ts";

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

/** What a request costs in an hour, in the currency of the prices. */
export function perHour(prices: HourlyPrices, { cpus, memoryBytes, diskBytes }: Amounts): number {
  const disk = ((prices.diskGibPerMonth ?? 0) / hoursPerMonth) * (diskBytes / GiB);
  return prices.cpuPerHour * cpus + prices.memoryGibPerHour * (memoryBytes / GiB) + disk;
}

/** An amount in another currency; undefined when there is no rate. */
export function convert(
  amount: number,
  from: string,
  to: string,
  { reference, rates }: CostScale,
): number | undefined {
  if (from === to) return amount;
  const [of, into] = [from, to].map((currency) =>
    currency === reference.currency ? 1 : rates.get(currency),
  );
  return of === undefined || into === undefined ? undefined : (amount * of) / into;
}

/** What one unit of the prices' currency is worth in the reference's. */
export function rateOf(
  prices: HourlyPrices | undefined,
  { reference, rates }: CostScale,
): number | undefined {
  if (prices === undefined) return undefined;
  return prices.currency === reference.currency ? 1 : rates.get(prices.currency);
}

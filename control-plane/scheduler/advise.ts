/**
 * Compares providers and regions for a request, and reserves nothing. A site is as good as its cheapest and its nearest
 * host that would take the request, and as dependable as it has such hosts. All scores are 0 to 1 on fixed scales.
 */
import { summarise } from "./explain.ts";
import { place } from "./place.ts";
import type { Policy } from "./policy.ts";
import { perHour } from "./prices.ts";
import { greatCircle } from "./scorers/distance.ts";
import type { Amounts, GeoPoint, HostSnapshot, PlacementRequest } from "./snapshot.ts";

export const goals = ["cost", "latency", "availability", "balanced"] as const;
export type Goal = (typeof goals)[number];

export interface Wish {
  readonly amounts: Amounts;
  readonly goal: Goal;
  readonly near?: GeoPoint | undefined;
  readonly providers?: readonly string[] | undefined;
  readonly regions?: readonly string[] | undefined;
  readonly countries?: readonly string[] | undefined;
  readonly maxPrice?: PlacementRequest["maxPrice"];
}

export interface SiteAdvice {
  readonly provider: string;
  readonly region: string;
  readonly score: number;
  readonly parts: Readonly<Record<"cost" | "latency" | "availability", number>>;
  /** Per hour; undefined when no host there has a price. */
  readonly price: { readonly amount: number; readonly currency: string } | undefined;
  readonly km: number | undefined;
  /** How many hosts there would take it. */
  readonly hosts: number;
  readonly freeShare: number;
}

const weights: Readonly<Record<Goal, SiteAdvice["parts"]>> = {
  cost: { cost: 0.8, latency: 0.1, availability: 0.1 },
  latency: { cost: 0.1, latency: 0.8, availability: 0.1 },
  availability: { cost: 0.1, latency: 0.1, availability: 0.8 },
  balanced: { cost: 0.34, latency: 0.33, availability: 0.33 },
};
/** A price of 0.05 a CPU and 0.01 a GiB of memory scores one half, whatever the currency. */
const reference = { cpuPerHour: 0.05, memoryGibPerHour: 0.01, currency: "" };
const halfKm = 1000;

/** Every site that would take it within the constraints, best first; equal ones by name. */
export function advise(hosts: readonly HostSnapshot[], wish: Wish, policy: Policy): readonly SiteAdvice[] {
  const sites = new Map<string, HostSnapshot[]>();
  for (const host of hosts.filter((each) => isWanted(each, wish) && takes(each, wish, policy))) {
    const key = JSON.stringify([host.provider, host.region]);
    sites.set(key, [...(sites.get(key) ?? []), host]);
  }
  return [...sites.values()]
    .map((site) => toAdvice(site, wish))
    .sort((a, b) => b.score - a.score || compare(a.provider, b.provider) || compare(a.region, b.region));
}

/** Why no host will do, in a sentence. */
export function whyNowhere(hosts: readonly HostSnapshot[], wish: Wish, policy: Policy): string {
  const wanted = hosts.filter((host) => isWanted(host, wish));
  if (wanted.length === 0 && hosts.length > 0) {
    return `the constraints leave none of ${String(hosts.length)} hosts`;
  }
  const answer = place(wanted, requestOf(wish, wanted[0]?.architecture ?? ""), { ...policy, seed: "" });
  return "unplaceable" in answer ? summarise(answer.unplaceable) : "";
}

function isWanted(host: HostSnapshot, wish: Wish): boolean {
  const { providers, regions, countries } = wish;
  if (providers && !providers.includes(host.provider)) return false;
  if (regions && !regions.includes(host.region)) return false;
  return !countries || countries.includes(host.country ?? "");
}

/** Which image it will be is not known yet, so that the host's own architecture will do. */
function requestOf({ amounts, maxPrice }: Wish, architecture: string): PlacementRequest {
  return { ...amounts, maxPrice, imageArchitecture: architecture };
}

function takes(host: HostSnapshot, wish: Wish, { filters }: Policy): boolean {
  const request = requestOf(wish, host.architecture);
  return filters.every((filter) => (filter.fit(request)?.miss(host) ?? 0) === 0);
}

function toAdvice(site: readonly HostSnapshot[], { amounts, goal, near }: Wish): SiteAdvice {
  const [first] = site;
  const prices = site.flatMap(({ prices: p }) =>
    p ? [{ amount: perHour(p, amounts), currency: p.currency }] : [],
  );
  const price = prices.toSorted((a, b) => a.amount - b.amount)[0];
  const kmTo = near ? greatCircle(near) : undefined;
  const distances = site.flatMap(({ location }) => (location && kmTo ? [kmTo(location)] : []));
  const km = distances.length > 0 ? Math.min(...distances) : undefined;
  const freeShare = site.reduce((sum, host) => sum + shareFree(host), 0) / site.length;
  const atReference = perHour(reference, amounts);
  const parts = {
    cost: price ? atReference / (atReference + price.amount) : 0.5,
    latency: km === undefined ? 0 : halfKm / (halfKm + km),
    // Each further host halves the risk; a site that is nearly full is not to be counted on either.
    availability: (1 - 0.5 ** site.length + freeShare) / 2,
  };
  const weight = weights[goal];
  // Without a place to be near to, distance says nothing, and the other two share its weight.
  const counted = (["cost", "latency", "availability"] as const).filter((part) => part !== "latency" || near);
  const total = counted.reduce((sum, part) => sum + weight[part], 0);
  const score = counted.reduce((sum, part) => sum + (weight[part] / total) * parts[part], 0);
  return {
    ...{ provider: first?.provider ?? "", region: first?.region ?? "" },
    ...{ score, parts, price, km, hosts: site.length, freeShare },
  };
}

function shareFree({ capacity, used }: HostSnapshot): number {
  const cpus = capacity.cpus > 0 ? 1 - used.cpus / capacity.cpus : 0;
  const memory = capacity.memoryBytes > 0 ? 1 - used.memoryBytes / capacity.memoryBytes : 0;
  return Math.max(0, Math.min(cpus, memory));
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

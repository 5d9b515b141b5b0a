/**
 * Chooses a host. Pure: the same snapshot, request, policy and seed give the same choice, whatever order
 * the hosts come in. The choice is a plan: capacity is taken by the reservation that follows, which
 * tries the alternates when another placement was quicker.
 */
import type { Explanation, Rejection, ScoredHost } from "./explain.ts";
import type { Check, Filter, Gauge, Policy } from "./policy.ts";
import { createRanking, type Ranked } from "./ranking.ts";
import type { HostSnapshot, PlacementRequest } from "./snapshot.ts";

export interface PlaceOptions extends Policy {
  /** Orders hosts of equal score; the id of what is being placed, or of the operation that does. */
  readonly seed: string;
}

export type Placement =
  | {
      readonly host: string;
      /** Hosts to try next, best first; never more than five. */
      readonly alternates: readonly string[];
      readonly explain: Explanation;
    }
  | { readonly unplaceable: Explanation };

const alternatesKept = 5;
const bestExplained = 10;

/** Finds the best host for a request among those that will do, or tells why none will. */
export function place(
  hosts: readonly HostSnapshot[],
  request: PlacementRequest,
  { filters, scorers, seed }: PlaceOptions,
): Placement {
  const tallies = fitFilters(filters, request);
  const gauges = fitScorers(scorers, request);
  const ranking = createRanking(bestExplained, seed);
  let eligible = 0;
  for (const host of hosts) {
    if (isRejected(host, tallies)) continue;
    eligible++;
    ranking.offer(host, scoreOf(host, gauges));
  }

  const [first, ...others] = ranking.best;
  const explain: Explanation = {
    seed,
    hosts: hosts.length,
    eligible,
    rejected: tallies.flatMap(toRejection),
    best: ranking.best.map((ranked) => toScoredHost(ranked, gauges)),
  };
  if (first === undefined) return { unplaceable: explain };
  return {
    host: first.host.id,
    alternates: others.slice(0, alternatesKept).map(({ host }) => host.id),
    explain,
  };
}

/** What one filter has refused so far. */
interface Tally {
  readonly filter: Filter;
  readonly check: Check;
  count: number;
  nearest: HostSnapshot | undefined;
  nearestMiss: number;
}

function fitFilters(filters: readonly Filter[], request: PlacementRequest): readonly Tally[] {
  return filters.flatMap((filter) => {
    const check = filter.fit(request);
    return check ? [{ filter, check, count: 0, nearest: undefined, nearestMiss: Infinity }] : [];
  });
}

function isRejected(host: HostSnapshot, tallies: readonly Tally[]): boolean {
  for (const tally of tallies) {
    const miss = tally.check.miss(host);
    if (miss === 0) continue;
    tally.count++;
    const { nearest, nearestMiss } = tally;
    // Between equals the lower id, so that the order of hosts does not show.
    const nearer =
      miss < nearestMiss || (miss === nearestMiss && nearest !== undefined && host.id < nearest.id);
    if (nearest === undefined || nearer) {
      tally.nearest = host;
      tally.nearestMiss = miss;
    }
    return true;
  }
  return false;
}

function toRejection({ filter, check, count, nearest }: Tally): readonly Rejection[] {
  if (nearest === undefined) return [];
  const { code, verdict } = filter;
  return [{ code, verdict, count, nearest: { host_id: nearest.id, reason: check.reason(nearest) } }];
}

interface WeightedGauge {
  readonly name: string;
  readonly weight: number;
  /** The weight's part of all weights that apply. */
  readonly part: number;
  readonly gauge: Gauge;
}

function fitScorers(scorers: Policy["scorers"], request: PlacementRequest): readonly WeightedGauge[] {
  const fitted = scorers.flatMap(({ scorer, weight }) => {
    const gauge = weight > 0 ? scorer.fit(request) : undefined;
    return gauge ? [{ name: scorer.name, weight, gauge }] : [];
  });
  const total = fitted.reduce((sum, { weight }) => sum + weight, 0);
  return fitted.map((entry) => ({ ...entry, part: entry.weight / total }));
}

function scoreOf(host: HostSnapshot, gauges: readonly WeightedGauge[]): number {
  let score = 0;
  for (const { gauge, part } of gauges) score += gauge.score(host) * part;
  return score;
}

function toScoredHost({ host, score }: Ranked, gauges: readonly WeightedGauge[]): ScoredHost {
  return {
    host_id: host.id,
    provider: host.provider,
    region: host.region,
    score: round(score),
    parts: gauges.map(({ name, weight, gauge }) => ({
      scorer: name,
      weight,
      score: round(gauge.score(host)),
      measure: gauge.measure(host),
    })),
  };
}

function round(score: number): number {
  return Math.round(score * 1e4) / 1e4;
}

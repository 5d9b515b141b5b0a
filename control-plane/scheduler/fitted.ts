/** A policy fitted to one request: what the full scan and the choice by classes have in common. */
import type { Rejection, ScoredHost } from "./explain.ts";
import type { Check, Filter, Gauge, Policy, Scope } from "./policy.ts";
import type { Ranked } from "./ranking.ts";
import type { HostSnapshot, PlacementRequest } from "./snapshot.ts";

/** Hosts tell parts of reasons themselves, and explanations are stored. */
const longestReason = 200;

/** What one filter has refused so far. */
export class Tally {
  readonly filter: Filter;
  readonly check: Check;
  #count = 0;
  #nearest: { readonly id: string; readonly host: HostSnapshot; readonly miss: number } | undefined;

  constructor(filter: Filter, check: Check) {
    this.filter = filter;
    this.check = check;
  }

  /**
   * Counts hosts that miss by the same.
   * @param host any of them, or one that was like them
   * @param firstId gives the lowest of their ids, which stands for all: the order of hosts does not show
   */
  refuse(host: HostSnapshot, miss: number, count: number, firstId: () => string): void {
    this.#count += count;
    const nearest = this.#nearest;
    if (nearest !== undefined && miss > nearest.miss) return;
    const id = firstId();
    if (nearest === undefined || miss < nearest.miss || id < nearest.id) this.#nearest = { id, host, miss };
  }

  /** None when nothing was refused. */
  toRejections(): readonly Rejection[] {
    if (this.#nearest === undefined) return [];
    const { id, host } = this.#nearest;
    const { code, verdict } = this.filter;
    return [
      {
        code,
        verdict,
        count: this.#count,
        nearest: { host_id: id, reason: this.check.reason(host).slice(0, longestReason) },
      },
    ];
  }
}

/** Those filters that the request asks something of. */
export function fitFilters(filters: readonly Filter[], request: PlacementRequest): readonly Tally[] {
  return filters.flatMap((filter) => {
    const check = filter.fit(request);
    return check ? [new Tally(filter, check)] : [];
  });
}

/** Tells whether one of the filters refuses a host, and counts it there. */
export function isRefused(
  tallies: readonly Tally[],
  host: HostSnapshot,
  count: number,
  firstId: () => string,
): boolean {
  for (const tally of tallies) {
    const miss = tally.check.miss(host);
    if (miss === 0) continue;
    tally.refuse(host, miss, count, firstId);
    return true;
  }
  return false;
}

export interface WeightedGauge {
  readonly name: string;
  readonly scope: Scope;
  readonly weight: number;
  /** The weight's part of all weights that apply. */
  readonly part: number;
  readonly gauge: Gauge;
}

/** Those scorers that the request gives something to score by. */
export function fitScorers(scorers: Policy["scorers"], request: PlacementRequest): readonly WeightedGauge[] {
  const fitted = scorers.flatMap(({ scorer, weight }) => {
    const gauge = weight > 0 ? scorer.fit(request) : undefined;
    if (!gauge) return [];
    return [{ name: scorer.name, scope: scorer.scope, weight: weight * (gauge.emphasis ?? 1), gauge }];
  });
  const total = fitted.reduce((sum, { weight }) => sum + weight, 0);
  return fitted.map((entry) => ({ ...entry, part: entry.weight / total }));
}

/** Adds a host's scores to what it has already: in the order of the scorers, so that sums agree to the last bit. */
export function addScores(score: number, host: HostSnapshot, gauges: readonly WeightedGauge[]): number {
  let sum = score;
  for (const { gauge, part } of gauges) sum += gauge.score(host) * part;
  return sum;
}

export function toScoredHost({ host, score }: Ranked, gauges: readonly WeightedGauge[]): ScoredHost {
  return {
    host_id: host.id,
    provider: host.provider,
    region: host.region,
    score: round(score),
    parts: gauges.map(({ name, weight, gauge }) => {
      const { value = null, unit = "" } = gauge.amount(host) ?? {};
      const amount = value === null ? null : Number(value.toPrecision(6));
      return {
        ...{ scorer: name, weight, score: round(gauge.score(host)) },
        ...{ measure: gauge.measure(host), amount, unit },
      };
    }),
  };
}

function round(score: number): number {
  return Math.round(score * 1e4) / 1e4;
}

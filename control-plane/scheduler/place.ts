/**
 * Chooses a host. Pure: the same snapshot, request, policy and seed give the same choice, whatever order
 * the hosts come in. The choice is a plan: capacity is taken by the reservation that follows, which
 * tries the alternates when another placement was quicker.
 *
 * `place` looks at every host and is what a choice means; `Placer` gives the same answers sooner.
 */
import type { Explanation, Rejection } from "./explain.ts";
import { addScores, fitFilters, fitScorers, isRefused, toScoredHost, type WeightedGauge } from "./fitted.ts";
import type { Policy } from "./policy.ts";
import { createRanking, type Ranking } from "./ranking.ts";
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

export const alternatesKept = 5;
export const bestExplained = 10;

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
    if (isRefused(tallies, host, 1, () => host.id)) continue;
    eligible++;
    ranking.offer(host, addScores(0, host, gauges));
  }
  const rejected = tallies.flatMap((tally) => tally.toRejections());
  return toPlacement({ seed, hosts: hosts.length, eligible, rejected }, ranking, gauges);
}

/** The answer from what was counted and what came out best. */
export function toPlacement(
  counts: {
    readonly seed: string;
    readonly hosts: number;
    readonly eligible: number;
    readonly rejected: readonly Rejection[];
  },
  { best }: Ranking,
  gauges: readonly WeightedGauge[],
): Placement {
  const [first, ...others] = best;
  const explain: Explanation = { ...counts, best: best.map((ranked) => toScoredHost(ranked, gauges)) };
  if (first === undefined) return { unplaceable: explain };
  return {
    host: first.host.id,
    alternates: others.slice(0, alternatesKept).map(({ host }) => host.id),
    explain,
  };
}

/** How the hosts of one class stand to requests of one size, worked out once for each change of the class. */
import type { Tally, WeightedGauge } from "./fitted.ts";
import type { HostClass, Twins } from "./host-classes.ts";
import type { HostSnapshot } from "./snapshot.ts";

export interface Standing {
  /** The class's `changes` when this was true. */
  readonly changes: number;
  /** Those that have room, best first; the score is the mean of the load's scorers. */
  readonly ranked: readonly { readonly twins: Twins; readonly score: number }[];
  /** How many hosts these are. */
  readonly fits: number;
  /** What each load filter refuses, in the order of the filters. */
  readonly refused: readonly (Refused | undefined)[];
}

/** What one load filter refuses of a class. */
export interface Refused {
  readonly representative: HostSnapshot;
  /** Of those that come nearest, the lowest. */
  readonly id: string;
  readonly miss: number;
  readonly count: number;
}

/** What a request asks of a host's load. */
export interface FittedLoad {
  readonly load: readonly Tally[];
  readonly loadGauges: readonly WeightedGauge[];
}

/** Those of all classes, for one size. */
export class Standings {
  readonly #known = new WeakMap<HostClass, Standing>();

  of(hostClass: HostClass, fitted: FittedLoad): Standing {
    const known = this.#known.get(hostClass);
    if (known?.changes === hostClass.changes) return known;
    const standing = standingOf(hostClass, fitted);
    this.#known.set(hostClass, standing);
    return standing;
  }
}

function standingOf({ changes, twins: all }: HostClass, { load, loadGauges }: FittedLoad): Standing {
  const ranked: { readonly twins: Twins; readonly score: number }[] = [];
  const refused: (Refused | undefined)[] = load.map(() => undefined);
  const share = loadGauges.reduce((sum, { part }) => sum + part, 0);
  let fits = 0;
  for (const twins of all.values()) {
    const { representative, members } = twins;
    const [filter, miss] = firstMiss(load, representative);
    if (filter === undefined) {
      fits += members.size;
      let score = 0;
      for (const { gauge, part } of loadGauges) score += (gauge.score(representative) * part) / share;
      ranked.push({ twins, score });
    } else {
      refused[filter] = nearer(refused[filter], twins, miss);
    }
  }
  ranked.sort((a, b) => b.score - a.score);
  return { changes, ranked, fits, refused };
}

function firstMiss(load: readonly Tally[], host: HostSnapshot): readonly [number | undefined, number] {
  for (const [index, { check }] of load.entries()) {
    const miss = check.miss(host);
    if (miss !== 0) return [index, miss];
  }
  return [undefined, 0];
}

function nearer(before: Refused | undefined, { representative, members }: Twins, miss: number): Refused {
  const count = (before?.count ?? 0) + members.size;
  if (before && before.miss < miss) return { ...before, count };
  const id = lowestId(members);
  if (before?.miss === miss && before.id < id) return { ...before, count };
  return { representative, id, miss, count };
}

function lowestId(members: Twins["members"]): string {
  let lowest: string | undefined;
  for (const { host } of members) if (lowest === undefined || host.id < lowest) lowest = host.id;
  return lowest ?? "";
}

/**
 * Chooses hosts as `place` does, without looking at all of them: by classes and twins (`host-classes.ts`), best
 * class first, until no class that is left can hold a better host. Nothing is sampled; the answer is the same
 * to the last bit, explanation included.
 *
 * What labels alone decide is the same for every request of one shape, so it is kept until a host comes, goes or
 * changes its labels.
 */
import type { Rejection } from "./explain.ts";
import { addScores, fitFilters, fitScorers, isRefused, type Tally, type WeightedGauge } from "./fitted.ts";
import { firstIdOf, type HostClass, type HostClasses } from "./host-classes.ts";
import {
  alternatesKept,
  bestExplained,
  place,
  toPlacement,
  type PlaceOptions,
  type Placement,
} from "./place.ts";
import type { Policy, Scope } from "./policy.ts";
import { createRanking, type Ranking } from "./ranking.ts";
import type { HostSnapshot, PlacementRequest } from "./snapshot.ts";
import { Standings, type FittedLoad, type Refused, type Standing } from "./standing.ts";
import { VersionedCache } from "./versioned-cache.ts";

/** What label filters decide for all requests that ask the same of them. */
interface Admission {
  readonly version: number;
  readonly rejected: readonly Rejection[];
  readonly classes: readonly HostClass[];
}

/** The classes that will do for a request, best first by their labels; kept up with those that come and go. */
interface Outline {
  readonly version: 0;
  /** How many there were at first. */
  readonly weight: number;
  readonly candidates: Candidate[];
  /** The classes' turnover when this was true. */
  upTo: number;
  /** To a request like this; undefined when classes are of no use for it. */
  readonly fitted: Fitted | undefined;
}

interface Candidate {
  readonly hostClass: HostClass;
  /** By its labels. */
  readonly score: number;
  /** Of an earlier choice; good while the class has not changed. */
  standing: Standing | undefined;
  /** No host of it scores more, as long as `standing` is good. */
  most: number;
}

/** In classes, so that neither many different requests nor many classes fill the memory. */
const cacheBudget = 500_000;
const sizesKept = 64;
/** Scores are sums of rounded products: a bound is only trusted beyond this. */
const rounding = 1e-9;
const scopes: readonly Scope[] = ["labels", "load", "host"];

export class Placer {
  readonly #hosts: HostClasses;
  readonly #policy: Policy;
  readonly #admissions = new VersionedCache<Admission>(cacheBudget, ({ classes }) => classes.length);
  readonly #sizes = new VersionedCache<{ version: 0; standings: Standings }>(sizesKept, () => 0);
  readonly #outlines = new VersionedCache<Outline>(cacheBudget, ({ weight }) => weight);

  constructor(hosts: HostClasses, policy: Policy) {
    this.#hosts = hosts;
    this.#policy = policy;
  }

  /** The same answer as that of a full scan. */
  place(request: PlacementRequest, seed: string): Placement {
    const only = namedHosts(request);
    if (only) return this.#placeAmong(only, request, seed);
    const fitted = this.#fit(request);
    const outline = fitted && this.#outline(request);
    if (!outline) return place([...this.#hosts.hosts()], request, this.#options(seed));
    const ranking = rank(outline, fitted, seed);
    const { eligible, rejected } = account(outline, fitted);
    const refused = this.#admission(request, fitted).rejected;
    const counts = { seed, hosts: this.#hosts.size, eligible, rejected: [...refused, ...rejected] };
    return toPlacement(counts, ranking, fitted.gauges);
  }

  /** The host of that answer and its alternates alone, best first: for whoever will not be asked why. */
  choose(request: PlacementRequest, seed: string): readonly HostSnapshot[] {
    const outline = namedHosts(request) ? undefined : this.#outline(request);
    const plain = request.exclude === undefined && request.apart === undefined;
    // Nothing is counted here, so what was fitted for others of the same shape will do.
    const fitted = plain ? outline?.fitted : this.#fit(request);
    if (outline && fitted)
      return rank(outline, fitted, seed, 1 + alternatesKept).best.map(({ host }) => host);
    const answer = this.place(request, seed);
    if ("unplaceable" in answer) return [];
    return [answer.host, ...answer.alternates].flatMap((id) => this.#hosts.get(id) ?? []);
  }

  /** Of a request that names its hosts: all others miss by the filter that says so, which comes first. */
  #placeAmong(ids: readonly string[], request: PlacementRequest, seed: string): Placement {
    const [first] = fitFilters(this.#policy.filters, request);
    const named = new Set(ids);
    const among = [...named].flatMap((id) => this.#hosts.get(id) ?? []);
    const others = this.#hosts.size - among.length;
    const [sample] = this.#hosts.hosts();
    if (!sample || !first || first.filter.scope !== "host") {
      return place([...this.#hosts.hosts()], request, this.#options(seed));
    }
    const lowest = () => {
      let found: string | undefined;
      for (const { id } of this.#hosts.hosts()) {
        if (!named.has(id) && (found === undefined || id < found)) found = id;
      }
      return found ?? "";
    };
    if (others > 0) first.refuse(sample, 1, others, lowest);
    const answer = place(among, request, this.#options(seed));
    const told = "unplaceable" in answer ? answer.unplaceable : answer.explain;
    const rejected = [...first.toRejections(), ...told.rejected];
    const explain = { ...told, hosts: this.#hosts.size, rejected };
    return "unplaceable" in answer ? { unplaceable: explain } : { ...answer, explain };
  }

  #options(seed: string): PlaceOptions {
    return { ...this.#policy, seed };
  }

  /** Undefined when filters or scorers come in another order than classes are looked at in. */
  #fit(request: PlacementRequest): Fitted | undefined {
    const tallies = fitFilters(this.#policy.filters, request);
    const gauges = fitScorers(this.#policy.scorers, request);
    if (!inOrder(tallies.map(({ filter }) => filter.scope)) || !inOrder(gauges.map(({ scope }) => scope))) {
      return undefined;
    }
    const of = (scope: Scope) => tallies.filter(({ filter }) => filter.scope === scope);
    const labelGauges = gauges.filter(({ scope }) => scope === "labels");
    const loadGauges = gauges.filter(({ scope }) => scope === "load");
    const fits = { labels: of("labels"), load: of("load"), host: of("host") };
    return { ...fits, gauges, labelGauges, loadGauges, standings: this.#standingsFor(request) };
  }

  /** For all that load filters and scorers ask of a request. */
  #standingsFor({ cpus, memoryBytes, diskBytes, ...rare }: PlacementRequest): Standings {
    const { gpus, gpuModel, containerGpus, maxPrice } = rare;
    const plain = `${String(cpus)} ${String(memoryBytes)} ${String(diskBytes)}`;
    const isPlain = gpus === undefined && containerGpus === undefined && maxPrice === undefined;
    const size = isPlain ? plain : `${plain} ${JSON.stringify([gpus, gpuModel, containerGpus, maxPrice])}`;
    return this.#sizes.get(size, 0, () => ({ version: 0, standings: new Standings() })).standings;
  }

  /** Undefined where `#fit` is. */
  #outline(request: PlacementRequest): Outline | undefined {
    // Exclusions are by id, and no label depends on an id.
    const plain = request.exclude === undefined && request.apart === undefined;
    const asked = plain ? request : { ...request, exclude: undefined, apart: undefined };
    const key = JSON.stringify(asked);
    const outline = this.#outlines.get(key, 0, () => this.#makeOutline(asked));
    if (!outline.fitted) return undefined;
    const changes = this.#hosts.turnoverSince(outline.upTo);
    if (!changes) {
      Object.assign(outline, this.#makeOutline(asked), { weight: outline.weight });
      return outline;
    }
    for (const { hostClass, came } of changes) {
      if (came) addCandidate(outline.candidates, hostClass, outline.fitted);
      else removeCandidate(outline.candidates, hostClass);
    }
    outline.upTo = this.#hosts.turnover;
    return outline;
  }

  #makeOutline(asked: PlacementRequest): Outline {
    const fitted = this.#fit(asked);
    const upTo = this.#hosts.turnover;
    if (!fitted) return { version: 0, weight: 0, candidates: [], upTo, fitted };
    const { classes } = this.#admission(asked, fitted);
    const candidates = classes
      .map((hostClass) => toCandidate(hostClass, fitted))
      .sort((a, b) => b.score - a.score);
    return { version: 0, weight: candidates.length, candidates, upTo, fitted };
  }

  #admission(request: PlacementRequest, fitted: Fitted): Admission {
    const unsized = {
      ...{
        ...request,
        cpus: 0,
        memoryBytes: 0,
        diskBytes: 0,
        gpus: 0,
        gpuModel: undefined,
        containerGpus: undefined,
        maxPrice: undefined,
      },
      ...{
        near: undefined,
        nearestFirst: undefined,
        inZones: undefined,
        exclude: undefined,
        apart: undefined,
      },
    };
    return this.#admissions.get(JSON.stringify(unsized), this.#hosts.version, () =>
      admit(this.#hosts, fitted),
    );
  }
}

function toCandidate(hostClass: HostClass, { labelGauges }: Fitted): Candidate {
  const score = addScores(0, hostClass.representative, labelGauges);
  return { hostClass, score, standing: undefined, most: 0 };
}

function addCandidate(candidates: Candidate[], hostClass: HostClass, fitted: Fitted): void {
  if (fitted.labels.some(({ check }) => check.miss(hostClass.representative) !== 0)) return;
  const candidate = toCandidate(hostClass, fitted);
  const at = candidates.findIndex(({ score }) => score < candidate.score);
  candidates.splice(at < 0 ? candidates.length : at, 0, candidate);
}

function removeCandidate(candidates: Candidate[], hostClass: HostClass): void {
  const at = candidates.findIndex((candidate) => candidate.hostClass === hostClass);
  if (at >= 0) candidates.splice(at, 1);
}

/** The hosts that the request names as the only ones, if it does. */
function namedHosts({ host, together }: PlacementRequest): readonly string[] | undefined {
  if (host !== undefined) return [host];
  return together && together.length > 0 ? together : undefined;
}

interface Fitted extends FittedLoad {
  readonly labels: readonly Tally[];
  readonly host: readonly Tally[];
  readonly gauges: readonly WeightedGauge[];
  readonly labelGauges: readonly WeightedGauge[];
  readonly standings: Standings;
}

function inOrder(found: readonly Scope[]): boolean {
  const ranks = found.map((scope) => scopes.indexOf(scope));
  return ranks.every((rank, index) => index === 0 || (ranks[index - 1] ?? 0) <= rank);
}

function admit(hosts: HostClasses, { labels }: Fitted): Admission {
  const classes = [];
  for (const hostClass of hosts.classes) {
    const { representative, size } = hostClass;
    if (!isRefused(labels, representative, size, () => firstIdOf(hostClass))) classes.push(hostClass);
  }
  return { version: hosts.version, rejected: labels.flatMap((tally) => tally.toRejections()), classes };
}

function rank({ candidates }: Outline, fitted: Fitted, seed: string, limit = bestExplained): Ranking {
  const { host, loadGauges } = fitted;
  const ranking = createRanking(limit, seed);
  const share = shareOf(fitted);
  for (const candidate of candidates) {
    const { least } = ranking;
    if (candidate.score + share + rounding < least) break;
    const { ranked } = standingOf(candidate, fitted, share);
    if (candidate.most < least) continue;
    for (const { twins, score: loadScore } of ranked) {
      if (candidate.score + loadScore * share + rounding < ranking.least) break;
      const score = addScores(candidate.score, twins.representative, loadGauges);
      for (const member of twins.members) {
        if (host.every(({ check }) => check.miss(member.host) === 0)) {
          ranking.offer(member.host, score, member.hash);
        }
      }
    }
  }
  return ranking;
}

/** Counts every host of the classes that will do. */
function account({ candidates }: Outline, fitted: Fitted) {
  const { load, host } = fitted;
  const share = shareOf(fitted);
  const standings = candidates.map((candidate) => standingOf(candidate, fitted, share));
  let eligible = 0;
  for (const { ranked, fits } of standings)
    eligible += host.length === 0 ? fits : countAdmitted(ranked, host);
  for (const [index, tally] of load.entries()) tallyRefused(tally, standings, index);
  const rejected = [...load, ...host].flatMap((tally) => tally.toRejections());
  return { eligible, rejected };
}

/** Tells a load filter what it refuses, all classes in one go: this runs for every class of every explained choice. */
function tallyRefused(tally: Tally, standings: readonly Standing[], filter: number): void {
  let count = 0;
  let nearest: Refused | undefined;
  for (const { refused } of standings) {
    const entry = refused[filter];
    if (!entry) continue;
    count += entry.count;
    const nearer =
      !nearest || entry.miss < nearest.miss || (entry.miss === nearest.miss && entry.id < nearest.id);
    if (nearer) nearest = entry;
  }
  if (nearest) {
    const { representative, miss, id } = nearest;
    tally.refuse(representative, miss, count, () => id);
  }
}

function countAdmitted(ranked: Standing["ranked"], host: readonly Tally[]): number {
  let admitted = 0;
  for (const { twins } of ranked) {
    for (const member of twins.members) {
      if (!isRefused(host, member.host, 1, () => member.host.id)) admitted++;
    }
  }
  return admitted;
}

/** The part of a score that follows from load. */
function shareOf({ loadGauges }: Fitted): number {
  return loadGauges.reduce((sum, { part }) => sum + part, 0);
}

function standingOf(candidate: Candidate, fitted: Fitted, share: number): Standing {
  const { hostClass, standing } = candidate;
  if (standing?.changes === hostClass.changes) return standing;
  const made = fitted.standings.of(hostClass, fitted);
  candidate.most = candidate.score + (made.ranked[0]?.score ?? -2) * share + rounding;
  return (candidate.standing = made);
}

/**
 * The two things a placement is made of. Both are first fitted to a request: what depends on the
 * request alone is then computed once, and what the request does not ask for costs nothing.
 * Both answer with numbers; text is written only for the few hosts that an explanation shows,
 * because formatting it for ten thousand would take longer than choosing.
 */
import type { HostSnapshot, PlacementRequest } from "./snapshot.ts";

/**
 * What of a host is looked at: `labels` is all but its load and its id, `load` its capacity and what is used
 * of it. Hosts that are alike in it are looked at once; see `host-classes.ts`. A filter by `labels` asks neither
 * how much is requested nor where it is to be near.
 */
export type Scope = "labels" | "load" | "host";

/** Says which hosts will not do, and why. */
export interface Filter {
  readonly scope: Scope;
  /** Names the reason to programs. */
  readonly code: string;
  /** Names it to people; reads on from a count, as in "2 full". */
  readonly verdict: string;
  /** Undefined when the request asks nothing of this filter. */
  fit(request: PlacementRequest): Check | undefined;
}

export interface Check {
  /** 0 when the host passes, else by how much it misses: comparable between hosts, for this filter only. */
  miss(host: HostSnapshot): number;
  /** Why a host that misses does, with numbers where there are any. */
  reason(host: HostSnapshot): string;
}

/** Says how good a host that will do is. */
export interface Scorer {
  readonly name: string;
  readonly scope: Exclude<Scope, "host">;
  /** Undefined when the request gives nothing to score by. */
  fit(request: PlacementRequest): Gauge | undefined;
}

export interface Gauge {
  /** How much of its weight the request gives it; all, unless told otherwise. */
  readonly emphasis?: number;
  /** 0 (worst) to 1 (best) on a fixed scale: it depends on this host alone, never on the others. */
  score(host: HostSnapshot): number;
  /** The measure behind the score, in its own unit. */
  measure(host: HostSnapshot): string;
  /** The same as a number; undefined when it is not known. */
  amount(host: HostSnapshot): { readonly value: number; readonly unit: string } | undefined;
}

export interface WeightedScorer {
  readonly scorer: Scorer;
  /** 0 or more; only the proportions between weights matter. */
  readonly weight: number;
}

export interface Policy {
  /** In the order they run, by scope: the first that refuses a host is the one that is told. */
  readonly filters: readonly Filter[];
  readonly scorers: readonly WeightedScorer[];
}

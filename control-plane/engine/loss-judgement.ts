/**
 * Pure: what is known of a host that is not heard of, and whether that is enough to start its machines elsewhere.
 *
 * What each sighting by another host proves:
 * - `refused`, `unanswered`: its system is up. Its agent is dead, stopped or too busy to answer, so nobody there pulls
 *   plugs, and its machines may run for as long as they like. It is not lost, and it stays so, whatever the network
 *   does afterwards, until its agent is heard again.
 * - `answered`: its agent is alive and cut off from us. It will pull the plugs when its lease ends.
 * - `fenced`: the same, and it says that it has. Nothing that is bound to its lease runs there.
 * - `silent`: it is off, or cut off; if its agent lived until then, it pulls the plugs in time. Proves nothing of a host
 *   that others could not reach before either.
 */
import type { Sighting } from "../resources/host/host.resource.ts";

export interface LossTiming {
  /** What a heartbeat is good for. */
  readonly leaseMs: number;
  /** After this others are asked. */
  readonly suspectMs: number;
  /** By how much two clocks can differ over a lease. */
  readonly clockErrorMs: number;
  /** In this an agent has pulled the plugs. */
  readonly fenceMs: number;
  /** In this an agent that can reach us does: one that was only stopped is on its way back. */
  readonly redialMs: number;
  /** In this all agents are back after the control plane was away. */
  readonly returnMs: number;
}

/** Clocks that count a second too many or too few in a thousand are broken ones. */
const clockRateError = 0.001;
const clockStepMs = 200;
const leastRedialMs = 4_000;
/** An urgent agent tries at least every 4.5 s (agent/control): in twice that and a second it is back, however long a lease is. */
const mostRedialMs = 10_000;
const leastReturnMs = 10_000;
/** By so much a report may be late before anybody wonders. */
const leastLateMs = 1_000;

/** A host that dies is seen to be silent within 15 s, is lost within 24 s, and its machines run elsewhere within 30 s (ADR 17). */
export const defaultLeaseMs = 18_000;
export const defaultFenceMs = 3_000;

export function toLossTiming(leaseMs: number, fenceMs: number): LossTiming {
  return {
    ...{ leaseMs, fenceMs },
    redialMs: Math.min(Math.max(leaseMs, leastRedialMs), mostRedialMs),
    returnMs: Math.max(2 * leaseMs, leastReturnMs),
    suspectMs: Math.min(leaseMs, Math.max(0.65 * leaseMs, reportEveryMs(leaseMs) + leastLateMs)),
    clockErrorMs: clockStepMs + 2 * clockRateError * leaseMs,
  };
}

/**
 * How often a host reports that has nothing to say and nothing that is bound to its lease. One that has does so twice
 * as often by itself (agent/control/reporter.ts): two of its reports may get lost before it pulls plugs.
 */
export const reportEveryMs = (leaseMs: number): number => Math.round(leaseMs / 2);

/** What to hold true after a look: an agent that was seen not to be there is not taken for fenced later. */
export function mergeSightings(before: Sighting | undefined, seen: readonly Sighting[]): Sighting {
  for (const telling of ["fenced", "answered", "unanswered", "refused"] as const) {
    if (seen.includes(telling)) return telling;
  }
  if (before === "refused" || before === "unanswered") return before;
  return seen.includes("silent") ? "silent" : "none";
}

/** What is known of a silent host. */
export interface Silence {
  readonly silentMs: number;
  readonly sighting: Sighting;
  /** For how long its agent has answered others, and not come back to us. */
  readonly answeringMs: number;
  /** Whether others could reach it while it was well. */
  readonly reached: boolean;
}

export function isLost(silence: Silence, timing: LossTiming): boolean {
  const { silentMs, sighting, answeringMs, reached } = silence;
  const { leaseMs, clockErrorMs, fenceMs, redialMs } = timing;
  if (sighting === "fenced") return silentMs >= leaseMs && answeringMs >= redialMs;
  return sighting === "silent" && reached && silentMs >= leaseMs + clockErrorMs + fenceMs;
}

/** For whoever looks after the host. */
export function explainSilence(sighting: Sighting, reached: boolean, lost: boolean): string {
  if (lost)
    return "it is lost: what may run elsewhere does, and what it still has of that is removed when it is back";
  switch (sighting) {
    case "none":
      return "it is not heard of, and there is no other host to ask";
    case "refused":
      return "its system is up and its agent is not: its machines may run, so none is started elsewhere";
    case "unanswered":
      return "its system is up and its agent does not answer: its machines may run, so none is started elsewhere";
    case "answered":
      return "its agent runs and is cut off from the control plane";
    case "fenced":
      return "its agent runs, is cut off from the control plane, and has stopped what may run elsewhere";
    case "silent":
      return reached
        ? "nothing comes back from it, neither here nor to another host"
        : "nothing comes back from it; since others could not reach it before either, that proves nothing";
  }
}

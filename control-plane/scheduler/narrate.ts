/**
 * An explanation as a colleague would give it: the choice in money and kilometres, what was refused and why, with
 * every host accounted for, and what would change the answer. Pure, and from the record alone: it tells why the
 * choice came out as it did then, whatever has changed since.
 */
import type { Explanation, Rejection, ScoredHost, ScorePart } from "./explain.ts";

export interface Narrative {
  /** One sentence. */
  readonly verdict: string;
  readonly reasons: readonly string[];
  /** Each group of hosts that was refused. */
  readonly refused: readonly string[];
  readonly would_change: readonly string[];
}

/** How to call a host. */
export type NameOf = (hostId: string) => string;

/** @param taken the host that it went to; undefined while it has none */
export function narrate(explanation: Explanation, taken: string | undefined, nameOf: NameOf): Narrative {
  const chosen = taken === undefined ? undefined : explanation.best.find(({ host_id }) => host_id === taken);
  const refused = explanation.rejected.map((rejection) => describeRefusal(rejection, nameOf));
  if (!chosen) {
    const would_change = explanation.rejected.flatMap((rejection) => cure(rejection, nameOf));
    return { verdict: verdictWithout(explanation, taken, nameOf), reasons: [], refused, would_change };
  }
  const rival = explanation.best.find(({ host_id }) => host_id !== taken);
  return {
    verdict: verdictFor(explanation, chosen, nameOf),
    reasons: [...chosen.parts.map((part) => compare(part, rival, nameOf)), scoreOf(chosen, rival, nameOf)],
    refused,
    would_change: [
      ...(rival ? overtakes(rival, chosen, nameOf) : ["nothing: no other host would have done"]),
      ...otherGoals(explanation.best, chosen, nameOf),
    ],
  };
}

function verdictWithout({ hosts, eligible }: Explanation, taken: string | undefined, nameOf: NameOf): string {
  if (taken !== undefined) return `It is on ${nameOf(taken)}; the scheduler did not choose that.`;
  if (hosts === 0) return "There are no hosts yet.";
  if (eligible > 0) return `${count(eligible)} of ${String(hosts)} would do: it is about to be placed.`;
  return hosts === 1 ? "The only host will not do." : `None of ${count(hosts)} will do.`;
}

function verdictFor({ hosts, eligible, best }: Explanation, chosen: ScoredHost, nameOf: NameOf): string {
  const where = `It went to ${nameOf(chosen.host_id)} (${siteOf(chosen)})`;
  const [first] = best;
  if (first && first.host_id !== chosen.host_id) {
    return `${where}: ${nameOf(first.host_id)} scored better, but had filled up when it was to be reserved.`;
  }
  if (eligible === 1) return `${where}, the only one of ${count(hosts)} that would do.`;
  return `${where}, the best of ${String(eligible)} that would do, of ${count(hosts)}.`;
}

/** A measure of the chosen host beside that of its rival. */
function compare(part: ScorePart, rival: ScoredHost | undefined, nameOf: NameOf): string {
  const other = rival?.parts.find(({ scorer }) => scorer === part.scorer);
  if (!rival || !other) return sentence(part.measure);
  if (other.measure === part.measure) return sentence(`${part.measure}, as on the next best`);
  const share = shareBetween(part, other);
  const difference = share === undefined ? "against" : `${share} than`;
  return sentence(`${part.measure}, ${difference} ${other.measure} on ${nameOf(rival.host_id)}`);
}

/** How much less or more it is, where that is a matter of proportion. */
function shareBetween(part: ScorePart, other: ScorePart): string | undefined {
  if (part.scorer !== "cost" || part.unit !== other.unit) return undefined;
  if (part.amount === null || other.amount === null || other.amount === 0) return undefined;
  const less = 1 - part.amount / other.amount;
  if (Math.abs(less) < 0.005) return undefined;
  return `${percent(Math.abs(less))} ${less > 0 ? "less" : "more"}`;
}

function scoreOf(chosen: ScoredHost, rival: ScoredHost | undefined, nameOf: NameOf): string {
  if (chosen.parts.length === 0) return "Nothing told the hosts apart: the choice among them was by lot.";
  const parts = chosen.parts.map(
    ({ scorer, score, weight }) => `${scorer} ${score.toFixed(2)} with weight ${String(weight)}`,
  );
  const against = rival ? ` against ${rival.score.toFixed(3)} of ${nameOf(rival.host_id)}` : "";
  return `In all it scores ${chosen.score.toFixed(3)}${against}: ${parts.join(", ")}.`;
}

/** What its rival would have to be to come out first. */
function overtakes(rival: ScoredHost, chosen: ScoredHost, nameOf: NameOf): string[] {
  const gap = chosen.score - rival.score;
  const name = nameOf(rival.host_id);
  const total = rival.parts.reduce((sum, { weight }) => sum + weight, 0);
  const found = rival.parts.flatMap((part) => {
    const needed = part.score + (gap * total) / part.weight;
    const amount = amountFor(part, needed);
    if (amount === undefined) return [];
    const now = part.measure;
    if (part.scorer === "cost") return [`${name} below ${money(amount)} ${part.unit} (now ${now})`];
    return [`users within ${String(Math.floor(amount))} km of ${name} (now ${now})`];
  });
  if (gap === 0) return [`anything: ${name} is as good, and a lot decided`];
  return found.length > 0 ? found : [`no single thing would have put ${name} first`];
}

/** Cost and distance score 1 / (1 + amount / reference), whatever the reference: see the scorers. */
function amountFor({ scorer, score, amount }: ScorePart, needed: number): number | undefined {
  if ((scorer !== "cost" && scorer !== "distance") || amount === null) return undefined;
  if (needed >= 1 || score <= 0 || score >= 1 || amount <= 0) return undefined;
  const reference = (amount * score) / (1 - score);
  return reference * (1 / needed - 1);
}

/** Who would come first if only one thing counted, where that is somebody else. */
function otherGoals(best: readonly ScoredHost[], chosen: ScoredHost, nameOf: NameOf): string[] {
  if (chosen.parts.length < 2) return [];
  return chosen.parts.flatMap(({ scorer, score }) => {
    const scoreIn = (host: ScoredHost) => host.parts.find((part) => part.scorer === scorer)?.score ?? 0;
    const winner = best.reduce((a, b) => (scoreIn(b) > scoreIn(a) ? b : a), chosen);
    if (winner === chosen || scoreIn(winner) <= score) return [];
    const measure = winner.parts.find((part) => part.scorer === scorer)?.measure ?? "";
    const among = best.length < 10 ? "" : " of the ten best";
    return [`only ${scorer} counting: then ${nameOf(winner.host_id)}${among} (${measure})`];
  });
}

/** What would bring those hosts in that could come in without another wish. */
function cure({ code, count: hosts, nearest }: Rejection, nameOf: NameOf): string[] {
  const name = nameOf(nearest.host_id);
  const one = hosts === 1;
  switch (code) {
    case "offline":
      return [`${one ? name : `one of the ${String(hosts)} that are offline`} coming back`];
    case "cordoned":
      return [`${one ? name : `one of the ${String(hosts)} that are cordoned`} being uncordoned`];
    case "max_price":
      return [`a higher limit of the price (${name}: ${nearest.reason})`];
    case "tainted":
      return [`tolerating what ${name} is kept for (${nearest.reason})`];
    case "capacity":
      return [
        `room on ${one ? name : `one of the ${String(hosts)} that are full`} (${name}: ${nearest.reason})`,
      ];
    default:
      return [];
  }
}

function describeRefusal({ count: hosts, verdict, nearest }: Rejection, nameOf: NameOf): string {
  const detail = nearest.reason === verdict ? "" : `: ${nearest.reason}`;
  const name = nameOf(nearest.host_id);
  const example = hosts === 1 ? `${name}${detail}` : `nearest ${name}${detail}`;
  return `${String(hosts)} ${verdict} (${example})`;
}

const siteOf = ({ provider, region }: ScoredHost): string => `${provider}/${region}`;
const count = (hosts: number): string => (hosts === 1 ? "1 host" : `${String(hosts)} hosts`);
const percent = (share: number): string => `${String(Math.round(share * 100))} %`;
const money = (amount: number): string => (amount >= 0.01 ? amount.toFixed(3) : amount.toPrecision(2));
const sentence = (text: string): string => `${text}.`;

/** Advice in words: sentences with numbers. */
import type { SiteAdvice } from "../../scheduler/advise.ts";

/** Why the best site is the best. */
export function reasonsFor(best: SiteAdvice, next: SiteAdvice | undefined, nearName?: string): string[] {
  const site = `${best.provider}/${best.region}`;
  const { price, km, hosts, freeShare } = best;
  const count = hosts === 1 ? "1 host" : `${String(hosts)} hosts`;
  return [
    price
      ? `${price.amount.toFixed(3)} ${price.currency}/h${comparedTo(best, next)}, ${site}`
      : `no price is known for ${site}`,
    ...(km === undefined ? [] : [`${Math.round(km).toString()} km from ${nearName ?? "where it is needed"}`]),
    `${count} there would take it, with ${percent(freeShare)} % of CPU and memory free on average`,
  ];
}

/** What would have to be different for the next best to win. */
export function whatWouldChange(best: SiteAdvice, next: SiteAdvice | undefined, near: boolean): string[] {
  const said = near ? [] : ["`near` would bring distance into it: without it, it does not count"];
  if (!next) return [...said, "no other provider or region would take it"];
  const ahead = (best.score - next.score).toFixed(2);
  const parts = (["cost", "latency", "availability"] as const).filter(
    (part) => next.parts[part] > best.parts[part],
  );
  const name = `${next.provider}/${next.region}`;
  const better = parts.map((part) => `\`optimize_for: ${part}\` speaks for ${name}`);
  return [`${name} is next, ${ahead} behind`, ...better, ...said];
}

function comparedTo({ price }: SiteAdvice, next: SiteAdvice | undefined): string {
  if (!price || !next?.price || price.currency !== next.price.currency || next.price.amount === 0) return "";
  const less = 1 - price.amount / next.price.amount;
  if (Math.abs(less) < 0.005) return ", the same as the next";
  return `, ${percent(Math.abs(less))} % ${less > 0 ? "below" : "above"} the next`;
}

function percent(share: number): string {
  return String(Math.round(share * 100));
}

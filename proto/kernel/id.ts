import { randomUUID } from "node:crypto";
import { Fault } from "./fault.ts";

/** An id of one kind; parse it at the edge with {@link parseId}, never cast inside. */
export type Id<K extends string> = string & { readonly __brand: K };

const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"; // Crockford's base 32, lower case
const suffixLength = 20;
const timeLength = 9;
const suffixPattern = /^[0-9a-hjkmnp-tv-z]{20}$/;

/**
 * Makes the suffix of a new id: 45 bits of Unix milliseconds, then 55 random bits,
 * as 20 base-32 characters. Ids made later sort later, to the millisecond.
 */
export function newIdSuffix(nowMs: number = Date.now()): string {
  let time = "";
  for (let rest = Math.floor(nowMs); time.length < timeLength; rest = Math.floor(rest / 32)) {
    time = alphabet.charAt(rest % 32) + time;
  }
  // Its randomness is drawn for many at once; two of its digits hold no more than their version.
  const digits = randomUUID().replace(/-(.{4})-.{4}-.{4}-/, "$1");
  let random = "";
  for (let at = 0; random.length < suffixLength - timeLength; at += 2) {
    random += alphabet.charAt(Number.parseInt(digits.slice(at, at + 2), 16) % 32);
  }
  return time + random;
}

/** Makes a new id such as `vm-01k9...`. */
export function newId<K extends string>(prefix: string, nowMs?: number): Id<K> {
  return `${prefix}-${newIdSuffix(nowMs)}` as Id<K>;
}

/**
 * Reads an id that carries any of the kind's prefixes and gives its canonical form,
 * with the first prefix. Everything else is `notFound`: a malformed id names nothing.
 */
export function parseId<K extends string>(text: string, prefixes: readonly [string, ...string[]]): Id<K> {
  const suffix = text.slice(-suffixLength);
  const prefix = text.slice(0, -suffixLength - 1);
  const wellFormed =
    suffixPattern.test(suffix) && text.charAt(prefix.length) === "-" && prefixes.includes(prefix);
  if (!wellFormed) {
    throw new Fault("notFound", `there is no ${prefixes[0]} with that id`, {
      detail: { id: text.slice(0, 80) },
    });
  }
  return `${prefixes[0]}-${suffix}` as Id<K>;
}

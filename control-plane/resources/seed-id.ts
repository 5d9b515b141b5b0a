/** Ids of what comes with Skerry: they start with the beginning of time, where no made id ever is. */
import { createHash } from "node:crypto";

const alphabet = "0123456789abcdefghjkmnpqrstvwxyz";
const beginning = "00000000";

/** What every seed of a kind starts with. */
export const seedIdStart = (prefix: string) => `${prefix}-${beginning}`;

/** The same name always gives the same id, in every installation. */
export function seedIdOf(kind: string, prefix: string, name: string): string {
  const digest = createHash("sha256").update(`skerry ${kind} ${name}`).digest();
  const suffix = Array.from(digest.subarray(0, 12), (byte) => alphabet.charAt(byte & 31)).join("");
  return `${seedIdStart(prefix)}${suffix}`;
}

/** Durations as NovaCron writes them: `450ms`, `1s`, `1.5s`, `1m30s`. */
import { z } from "zod";

const unitMs = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const;
const whole = /^(?:\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h))+$/;
const part = /(\d+(?:\.\d+)?)(ms|s|m|h)/g;

/** Milliseconds, to the next whole one; undefined when it is no duration. */
export function parseDuration(text: string): number | undefined {
  if (text.length > 40 || !whole.test(text)) return undefined;
  let ms = 0;
  for (const [, amount = "", unit = "ms"] of text.matchAll(part)) {
    ms += Number(amount) * unitMs[unit as keyof typeof unitMs];
  }
  return Math.ceil(ms);
}

/** The shortest way to write it that reads back as the same number of milliseconds. */
export function formatDuration(ms: number): string {
  const rounded = Math.max(0, Math.round(ms));
  if (rounded > 0 && rounded < unitMs.s) return `${String(rounded)}ms`;
  const hours = Math.floor(rounded / unitMs.h);
  const minutes = Math.floor((rounded % unitMs.h) / unitMs.m);
  const seconds = (rounded % unitMs.m) / 1000;
  const larger = `${hours > 0 ? `${String(hours)}h` : ""}${minutes > 0 ? `${String(minutes)}m` : ""}`;
  return seconds > 0 || larger === "" ? `${larger}${String(seconds)}s` : larger;
}

/** A duration in a body, as milliseconds. */
export function durationSchema(range: { readonly minMs: number; readonly maxMs: number }) {
  const from = formatDuration(range.minMs);
  const to = formatDuration(range.maxMs);
  const message = `must be a duration from ${from} to ${to}, such as "450ms" or "1.5s"`;
  return z
    .string(message)
    .refine((text) => {
      const ms = parseDuration(text);
      return ms !== undefined && ms >= range.minMs && ms <= range.maxMs;
    }, message)
    .transform((text) => parseDuration(text) ?? 0)
    .meta({ description: `from ${from} to ${to}`, examples: ["1s", "450ms"] });
}

/** Sizes, durations and ages as people write and read them. */
import { InvalidArgumentError } from "commander";

const powers = { "": 0, k: 1, m: 2, g: 3, t: 4 } as const;
const sizePattern = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i;

/** Reads `512m`, `2g`, `1.5GiB` or plain bytes. Units are powers of 1024. */
export function parseSize(text: string): number {
  const [, number, unit] = sizePattern.exec(text.trim()) ?? [];
  const bytes = Number(number) * 1024 ** powers[(unit ?? "").toLowerCase() as keyof typeof powers];
  if (!Number.isSafeInteger(Math.round(bytes))) {
    throw new InvalidArgumentError("A size is a number with k, m, g or t, such as 512m or 20g.");
  }
  return Math.round(bytes);
}

/** Writes bytes in the largest unit that leaves at least one, with one decimal where it says something. */
export function formatSize(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${Number(value.toFixed(1))} ${units[unit] ?? ""}`;
}

/** Reads bytes per second: `12m` (MiB), or bits as links are sold: `100mbit`, `1gbit`. */
export function parseRate(text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([kmg]?)bit(?:\/s)?$/i.exec(text.trim()) ?? [];
  if (number === undefined) return parseSize(text.replace(/\/s$/, ""));
  const power = powers[(unit ?? "").toLowerCase() as keyof typeof powers];
  return Math.round((Number(number) * 1000 ** power) / 8);
}

const seconds = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86400 } as const;

/** Reads `500ms`, `90s`, `5m`, `2h`, `7d` or plain seconds; gives milliseconds. */
export function parseDuration(text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*(ms|[smhd]?)$/i.exec(text.trim()) ?? [];
  const ms = Number(number) * seconds[((unit ?? "").toLowerCase() || "s") as keyof typeof seconds] * 1000;
  if (!Number.isFinite(ms)) {
    throw new InvalidArgumentError("A duration is a number with ms, s, m, h or d, such as 90s or 5m.");
  }
  return ms;
}

/** Writes how long ago or how long something is: the largest unit, and no more. */
export function formatDuration(ms: number): string {
  const total = Math.max(0, Math.round(ms / 1000));
  if (total < 120) return `${total}s`;
  if (total < 2 * 3600) return `${Math.floor(total / 60)}m`;
  if (total < 2 * 86400) return `${Math.floor(total / 3600)}h`;
  return `${Math.floor(total / 86400)}d`;
}

/** Writes a time that was measured: `84 ms`, `12.3 s`, `4 min 10 s`. */
export function formatTime(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 119_950) return `${(ms / 1000).toFixed(1)} s`;
  const total = Math.round(ms / 1000);
  return `${Math.floor(total / 60)} min ${total % 60} s`;
}

/** Reads a whole number within a range. */
export function parseInteger(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

/** Collects `key=value` options into one record. */
export function collectPair(text: string, previous: Readonly<Record<string, string>> = {}) {
  const at = text.indexOf("=");
  const key = at < 0 ? text : text.slice(0, at);
  if (key === "") throw new InvalidArgumentError("It must be key=value.");
  return { ...previous, [key]: at < 0 ? "" : text.slice(at + 1) };
}

/** Collects an option that may be given several times. */
export const collect = (text: string, previous: readonly string[] = []): readonly string[] => [
  ...previous,
  text,
];

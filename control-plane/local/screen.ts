/** What the person at the screen sees: one line per thing that matters; the rest is in the log files. */
import type { Fault } from "#kernel/fault.ts";

export type Tell = (line: string) => void;

const quietMs = 10_000;

/**
 * Watches a program's log lines: tells each kind of error once in a while, and calls `onReady` when the
 * program says that it serves.
 */
export function watchLines(
  options: {
    readonly name: string;
    readonly logFile: string;
    readonly tell: Tell;
    readonly onReady?: () => void;
  },
  now: () => number = Date.now,
): (line: string) => void {
  const toldAt = new Map<string, number>();
  return (line) => {
    const entry = parseEntry(line);
    if (entry?.event === "ready") options.onReady?.();
    if (entry?.level !== "error") return;
    if (now() - (toldAt.get(entry.event) ?? -Infinity) < quietMs) return;
    toldAt.set(entry.event, now());
    options.tell(`${options.name} reports ${entry.event}; see ${options.logFile}`);
  };
}

interface Entry {
  readonly event: string;
  readonly level: string;
}

/** What the few lines that matter have in them: most are dropped before the cost of parsing. */
const mayMatter = /"(?:ready|error)"/;

function parseEntry(line: string): Entry | undefined {
  if (!line.startsWith("{") || !mayMatter.test(line)) return undefined;
  try {
    const { event, level } = JSON.parse(line) as Partial<Entry>;
    return { event: String(event), level: String(level) };
  } catch {
    return undefined; // a line that only looks like JSON is the log file's business
  }
}

/** A fault with what helps to mend it: details and the innermost cause. */
export function describeFault(fault: Fault): string {
  const lines = [fault.message];
  const detail = fault.detail as { readonly last_lines?: readonly string[]; readonly answer?: string };
  for (const line of detail.last_lines ?? []) lines.push(`  | ${line}`);
  if (detail.answer) lines.push(`  | ${detail.answer}`);
  let cause = fault.cause;
  while (cause instanceof Error && cause.cause instanceof Error) cause = cause.cause;
  if (cause instanceof Error) lines.push(`  because: ${cause.message}`);
  return lines.join("\n");
}

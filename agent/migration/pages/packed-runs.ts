/**
 * Runs of pages as numbers in a row: to tell another thread of them as objects costs more than much of what it does with
 * them. A page's number may have more than 32 bits.
 */
import type { PageRun } from "./scanner.ts";

const fields = [
  "offset",
  "firstHeadBytes",
  "bodyBytes",
  "firstPage",
  "count",
] as const satisfies (keyof PageRun)[];

export function packRuns(runs: readonly PageRun[]): Float64Array {
  const packed = new Float64Array(runs.length * fields.length);
  let at = 0;
  for (const run of runs) for (const field of fields) packed[at++] = run[field];
  return packed;
}

/** @param packed as {@link packRuns} made it */
export function unpackRuns(packed: Float64Array): readonly PageRun[] {
  const runs: PageRun[] = [];
  for (let at = 0; at < packed.length;) {
    const next = () => packed[at++] ?? 0;
    runs.push({
      offset: next(),
      firstHeadBytes: next(),
      bodyBytes: next(),
      firstPage: next(),
      count: next(),
    });
  }
  return runs;
}

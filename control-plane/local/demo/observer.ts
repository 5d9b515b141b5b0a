/**
 * Watches a guest count from outside: what its QEMU writes to the console log of whichever host it is on, with
 * the time at which it came. A copy that counted on at the old host, or counted again, would be seen.
 */
import { closeSync, fstatSync, openSync, readSync, statSync } from "node:fs";
import { Fault } from "#kernel/fault.ts";
import { deadline, sleep } from "#kernel/retry.ts";

/** One step of the guest's count. */
export interface Count {
  readonly n: number;
  readonly atMs: number;
  /** Index of the log that it came in. */
  readonly source: number;
}

/** What the guest found in the file that it writes to its disk. */
export interface DiskCheck {
  readonly lines: number;
  readonly wrong: number;
}

/** A pause in the counting, beyond its usual step. */
export interface Pause {
  readonly usualMs: number;
  readonly longestMs: number;
  /** Whether the longest step began at one host and ended at the other. */
  readonly betweenHosts: boolean;
  readonly pauseMs: number;
}

const lookMs = 5;
const chunkBytes = 64 * 1024;

/** What the guest runs: it counts aloud and on its disk, and now and then reads the disk back. */
export const countingScript = `#!/bin/sh
n=0
while sleep 0.05; do
  n=$((n + 1))
  echo $n >>/data/journal
  echo "count $n"
  [ $((n % 50)) = 0 ] && (
    sync
    echo 3 >/proc/sys/vm/drop_caches
    awk '$1 != NR { wrong++ } END { print "journal " NR " " wrong + 0 }' /data/journal
  ) &
done
`;

export class CountObserver implements Disposable {
  readonly counts: Count[] = [];
  readonly #logs: Log[];
  readonly #timer: NodeJS.Timeout;
  #disk: DiskCheck | undefined;
  #repeated = 0;

  /** @param paths of the console logs, one per host; a log may come to be later */
  constructor(paths: readonly string[]) {
    this.#logs = paths.map((path) => ({ path, file: undefined, offset: 0, rest: "" }));
    this.#timer = setInterval(() => this.#look(), lookMs);
  }

  /** The newest look at the disk. */
  get disk(): DiskCheck | undefined {
    return this.#disk;
  }

  /** Numbers that came although a higher one had come before: of a second copy, or one that went back. */
  get repeated(): number {
    return this.#repeated;
  }

  /** Waits until the guest has counted so many more. */
  async more(count: number, limitMs: number, signal: AbortSignal): Promise<void> {
    const from = this.counts.length;
    await this.#until(() => this.counts.length >= from + count, limitMs, signal, "the guest to count");
  }

  /** Waits until the guest has read its disk again, and has found all that it had counted up to now. */
  async checkDisk(limitMs: number, signal: AbortSignal): Promise<DiskCheck> {
    const counted = this.counts.at(-1)?.n ?? 0;
    const checked = () => this.#disk !== undefined && this.#disk.lines >= counted;
    await this.#until(checked, limitMs, signal, "the guest to read its disk");
    return this.#disk ?? { lines: 0, wrong: 0 };
  }

  /** The longest pause since the count with this index. */
  pauseSince(index: number): Pause {
    const steps = this.counts.slice(index).flatMap((count, i) => {
      const before = this.counts[index + i - 1];
      if (!before) return [];
      const step = { ms: count.atMs - before.atMs, counts: count.n - before.n };
      return [{ ...step, betweenHosts: count.source !== before.source }];
    });
    const usualMs = medianOf(steps.map(({ ms, counts }) => ms / counts));
    const start = { ms: 0, counts: 1, betweenHosts: false };
    const longest = steps.reduce((a, b) => (b.ms > a.ms ? b : a), start);
    const pauseMs = Math.max(0, longest.ms - usualMs * longest.counts);
    return { usualMs, longestMs: longest.ms, betweenHosts: longest.betweenHosts, pauseMs };
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    for (const log of this.#logs) if (log.file !== undefined) closeSync(log.file);
  }

  #look(): void {
    for (const [source, log] of this.#logs.entries()) {
      for (const line of readLines(log)) this.#take(line, source);
    }
  }

  #take(line: string, source: number): void {
    const [, counted] = /^count (\d+)$/.exec(line) ?? [];
    const [, lines, wrong] = /^journal (\d+) (\d+)$/.exec(line) ?? [];
    if (lines !== undefined) this.#disk = { lines: Number(lines), wrong: Number(wrong) };
    if (counted === undefined) return;
    const n = Number(counted);
    if (n > (this.counts.at(-1)?.n ?? 0)) this.counts.push({ n, atMs: performance.now(), source });
    else this.#repeated++;
  }

  async #until(done: () => boolean, limitMs: number, signal: AbortSignal, what: string): Promise<void> {
    using limit = deadline(limitMs, `waiting for ${what}`, signal);
    while (!done()) {
      if (limit.aborted) throw limit.reason;
      await sleep(lookMs, limit);
    }
  }
}

interface Log {
  readonly path: string;
  file: number | undefined;
  offset: number;
  rest: string;
}

/** The lines that have come since the last look. A machine that comes back to a host begins a new log there. */
function readLines(log: Log): string[] {
  if (log.file === undefined || isReplaced(log.path, log.file)) {
    if (log.file !== undefined) closeSync(log.file);
    Object.assign(log, { file: openIfThere(log.path), offset: 0, rest: "" });
  }
  if (log.file === undefined) return [];
  const chunk = Buffer.alloc(chunkBytes);
  const read = readSync(log.file, chunk, 0, chunkBytes, log.offset);
  if (read === 0) return [];
  log.offset += read;
  const lines = (log.rest + chunk.toString("latin1", 0, read)).split(/\r?\n/);
  log.rest = lines.pop() ?? "";
  return lines;
}

function isReplaced(path: string, file: number): boolean {
  const now = statSync(path, { throwIfNoEntry: false });
  return now !== undefined && now.ino !== fstatSync(file).ino;
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, "r");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new Fault("internal", `cannot read ${path}`, { cause });
  }
}

function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

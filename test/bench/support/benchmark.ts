/** What a benchmark is: a file `test/bench/<name>.ts` that exports one of these as `benchmark`. */
export interface Benchmark {
  /** What it does, in a sentence: printed before it runs. */
  readonly summary: string;
  /** Measures, and gives the numbers; their names end in their units. */
  run(bench: BenchContext): Promise<Measures>;
}

export type Measures = Readonly<Record<string, number | string>>;

export interface BenchContext {
  readonly args: readonly string[];
  readonly signal: AbortSignal;
  /** A line for the person who watches. */
  say(line: string): void;
  /** Runs when the benchmark has ended, however it ended; the last one registered first. */
  teardown(work: () => Promise<void> | void): void;
}

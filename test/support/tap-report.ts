/** Reads the raw TAP of one test file as it comes: keeps what failed, with its diagnostics, and tap's own counts. */
export interface Counts {
  readonly passed: number;
  readonly failed: number;
}

const failedPoint = /^\s*not ok \d+/;
/** A table that a test has drawn is for whoever runs the tests. */
const table = /^\s*# (\| .*)$/;
const totals = /^# \{ total: (\d+)(?:, pass: (\d+))?(?:, fail: (\d+))?/;

export class TapReport {
  #counts: Counts | undefined;
  /** Of a failed point: its diagnostics may follow, or have begun. */
  #diagnostics: "none" | "expected" | "shown" = "none";

  /** Takes one line; gives those to show. */
  take(line: string): readonly string[] {
    const total = totals.exec(line);
    if (total) this.#counts = { passed: Number(total[2] ?? 0), failed: Number(total[3] ?? 0) };
    const row = table.exec(line)?.[1];
    if (row !== undefined) return [row];
    if (this.#diagnostics === "shown") {
      if (/^\s*\.\.\.$/.test(line)) this.#diagnostics = "none";
      return [line];
    }
    const begins = this.#diagnostics === "expected" && /^\s*---$/.test(line);
    const failed = failedPoint.test(line);
    this.#diagnostics = begins ? "shown" : failed ? "expected" : "none";
    return begins || failed ? [line] : [];
  }

  /**
   * What the file came to. One that ended badly although nothing failed in it (it crashed, or never reached its
   * closing line) counts as one failure.
   */
  close(exitCode: number | null): Counts {
    const { passed, failed } = this.#counts ?? { passed: 0, failed: 0 };
    const bad = this.#counts === undefined || exitCode !== 0;
    return { passed, failed: failed === 0 && bad ? 1 : failed };
  }
}

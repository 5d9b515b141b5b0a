/**
 * Reads the raw TAP of a run as it comes: says which files are done, shows what failed with its
 * diagnostics, and counts assertions by tap's own closing line.
 */
export interface Counts {
  readonly passed: number;
  readonly failed: number;
}

const fileResult = /^(not ok|ok) \d+ - (.*?)(?: # time=([\d.]+)ms)?$/;
const failedPoint = /^\s+not ok \d+/;
/** A table that a test has drawn is for whoever runs the tests. */
const table = /^\s*# (\| .*)$/;
const totals = /^# \{ total: (\d+)(?:, pass: (\d+))?(?:, fail: (\d+))?/;

export class TapReport {
  #counts: Counts | undefined;
  #files = 0;
  #showing = false;

  /** Takes one line; gives those to show. */
  take(line: string): readonly string[] {
    const total = totals.exec(line);
    if (total) this.#counts = { passed: Number(total[2] ?? 0), failed: Number(total[3] ?? 0) };
    const file = fileResult.exec(line);
    if (file) {
      this.#files++;
      const [, result, name, ms] = file;
      this.#showing = result === "not ok";
      return [`${result === "ok" ? "    ok" : "NOT OK"}  ${name ?? ""}  ${seconds(ms)}`];
    }
    const row = table.exec(line)?.[1];
    if (row !== undefined) return [`    ${row}`];
    if (failedPoint.test(line)) this.#showing = true;
    if (!this.#showing) return [];
    if (/^\s*\.\.\.$/.test(line)) this.#showing = false;
    return [line];
  }

  /**
   * What the run came to. A run that ended badly although nothing failed in it (it crashed, found no
   * file, or never reached its closing line) counts as one failure.
   */
  close(exitCode: number): Counts {
    const { passed, failed } = this.#counts ?? { passed: 0, failed: 0 };
    const silent = this.#counts === undefined || this.#files === 0 || exitCode !== 0;
    return { passed, failed: failed === 0 && silent ? 1 : failed };
  }
}

function seconds(ms: string | undefined): string {
  return ms === undefined ? "" : `${(Number(ms) / 1000).toFixed(1)} s`;
}

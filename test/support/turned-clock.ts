/**
 * Wall clocks of programs that a test turns: `Date` in them is off by as many milliseconds as the test says. What counts
 * for itself (timers, `performance.now()`, the time since boot) goes on, as it does when somebody sets a clock.
 */
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Environment } from "#cp/local/child.ts";
import type { Teardown } from "./postgres.ts";
import { until } from "./until.ts";

const lookMs = 50;
const seenPrefix = "seen-";

/** Runs in the program before anything else does, and says how far off its clock is once that has changed. */
const turn = (directory: string) => `
  import { readFileSync, writeFileSync } from "node:fs";
  import { isMainThread } from "node:worker_threads";
  const TrueDate = Date;
  const directory = ${JSON.stringify(directory)};
  let offsetMs = 0;
  const look = () => {
    const text = readFileSync(directory + "/offset", "utf8");
    if (text === "" || Number(text) === offsetMs) return; // empty: just being written
    offsetMs = Number(text);
    if (isMainThread) writeFileSync(directory + "/${seenPrefix}" + process.pid, String(offsetMs));
  };
  setInterval(look, ${String(lookMs)}).unref();
  globalThis.Date = class extends TrueDate {
    constructor(...parts) {
      if (parts.length === 0) super(TrueDate.now() + offsetMs);
      else super(...parts);
    }
    static now() {
      return TrueDate.now() + offsetMs;
    }
  };`;

export class TurnedClock {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  static async open(t: Teardown): Promise<TurnedClock> {
    const directory = await mkdtemp(join(tmpdir(), "skerry-clock-"));
    t.teardown(() => rm(directory, { recursive: true, force: true }));
    const clock = new TurnedClock(directory);
    await clock.#write(0);
    return clock;
  }

  /** For the programs that go by it. */
  get env(): Environment {
    return { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(turn(this.#directory))}` };
  }

  /** Resolves when so many programs have seen it. */
  async set(offsetMs: number, programs: number): Promise<void> {
    await this.#write(offsetMs);
    await until(async () => {
      const names = (await readdir(this.#directory)).filter((name) => name.startsWith(seenPrefix));
      const seen = await Promise.all(names.map((name) => readFile(join(this.#directory, name), "utf8")));
      return seen.filter((text) => text === String(offsetMs)).length === programs;
    });
  }

  async #write(offsetMs: number): Promise<void> {
    await writeFile(join(this.#directory, "offset"), String(offsetMs));
  }
}

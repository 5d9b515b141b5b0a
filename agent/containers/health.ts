/** Whether containers are healthy. The agent runs the checks itself: no timers of the host's are needed. */
import { toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import type { HealthSettings } from "./engine.ts";

export type Health = "starting" | "healthy" | "unhealthy";

export interface Vitals {
  readonly health: Health;
  /** Failures in a row that count. */
  readonly failures: number;
}

/** What a check's outcome makes of a container's health. Pure. */
export function judgeHealth(
  { health, failures }: Vitals,
  passed: boolean,
  sinceStartMs: number,
  { retries, startPeriodSeconds }: Pick<HealthSettings, "retries" | "startPeriodSeconds">,
): Vitals {
  if (passed) return { health: "healthy", failures: 0 };
  if (health === "starting" && sinceStartMs < startPeriodSeconds * 1000) return { health, failures: 0 };
  const counted = failures + 1;
  return { health: counted >= Math.max(1, retries) ? "unhealthy" : health, failures: counted };
}

export interface HealthWatchOptions {
  /** Runs the container's check once. */
  check(id: string, signal: AbortSignal): Promise<boolean>;
  /** The health is not what it was. */
  onChange(id: string, health: Health): void;
  readonly log: Logger;
  readonly now: () => number;
}

interface Watched extends Disposable {
  vitals: Vitals;
}

export class HealthWatch implements Disposable {
  readonly #options: HealthWatchOptions;
  readonly #watched = new Map<string, Watched>();

  constructor(options: HealthWatchOptions) {
    this.#options = options;
  }

  /** Undefined when nobody watches it. */
  of(id: string): Health | undefined {
    return this.#watched.get(id)?.vitals.health;
  }

  /** Checks the container from now on; one that is being checked already goes on. */
  start(id: string, startedAt: Date, settings: HealthSettings): void {
    if (this.#watched.has(id)) return;
    const stop = new AbortController();
    const watched: Watched = {
      vitals: { health: "starting", failures: 0 },
      [Symbol.dispose]: () => stop.abort(),
    };
    this.#watched.set(id, watched);
    void this.#run(id, watched, startedAt, settings, stop.signal).catch((thrown: unknown) => {
      if (!stop.signal.aborted) this.#options.log.error("health.ended", { workload: id, fault: thrown });
    });
  }

  stop(id: string): void {
    this.#watched.get(id)?.[Symbol.dispose]();
    this.#watched.delete(id);
  }

  [Symbol.dispose](): void {
    for (const id of [...this.#watched.keys()]) this.stop(id);
  }

  async #run(
    id: string,
    watched: Watched,
    startedAt: Date,
    settings: HealthSettings,
    signal: AbortSignal,
  ): Promise<void> {
    while (watched.vitals.health !== "unhealthy") {
      await sleep(Math.max(1, settings.intervalSeconds) * 1000, signal);
      const passed = await this.#check(id, settings, signal);
      signal.throwIfAborted();
      const before = watched.vitals.health;
      const sinceStartMs = this.#options.now() - startedAt.getTime();
      watched.vitals = judgeHealth(watched.vitals, passed, sinceStartMs, settings);
      if (watched.vitals.health !== before) this.#options.onChange(id, watched.vitals.health);
    }
  }

  /** A check that cannot be run says as little for the container as one that fails. */
  async #check(id: string, { timeoutSeconds }: HealthSettings, signal: AbortSignal): Promise<boolean> {
    using limit = deadline(Math.max(1, timeoutSeconds) * 1000, "the health check", signal);
    try {
      return await this.#options.check(id, limit);
    } catch (thrown) {
      if (!signal.aborted) this.#options.log.debug("health.failed", { workload: id, fault: toFault(thrown) });
      return false;
    }
  }
}

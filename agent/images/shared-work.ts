/**
 * Work that several callers want at the same time is done once. It goes on while at least one of them
 * waits, and is aborted when the last one gives up. Work under one key never overlaps.
 */
import { unlessAborted } from "#kernel/stall.ts";

export type Progress = (done: bigint, total: bigint) => void;
type Start<T> = (progress: Progress, signal: AbortSignal) => Promise<T>;

interface Running<T> {
  readonly result: Promise<T>;
  /** Resolves when the work has ended, however it did. */
  readonly ended: Promise<void>;
  readonly stop: AbortController;
  readonly watchers: Set<Progress>;
}

export class SharedWork<T> {
  readonly #running = new Map<string, Running<T>>();

  /** Joins the work under this key, or starts it. */
  async join(key: string, start: Start<T>, progress: Progress, signal: AbortSignal): Promise<T> {
    let running = this.#running.get(key);
    while (running?.stop.signal.aborted) {
      await unlessAborted(running.ended, signal);
      running = this.#running.get(key);
    }
    signal.throwIfAborted();
    running ??= this.#start(key, start);
    // Wrapped, so that two callers with the same function count as two.
    const watcher: Progress = (done, total) => progress(done, total);
    running.watchers.add(watcher);
    try {
      return await unlessAborted(running.result, signal);
    } finally {
      running.watchers.delete(watcher);
      const unfinished = this.#running.get(key) === running;
      if (unfinished && running.watchers.size === 0) running.stop.abort();
    }
  }

  #start(key: string, start: Start<T>): Running<T> {
    const stop = new AbortController();
    const watchers = new Set<Progress>();
    const report: Progress = (done, total) => watchers.forEach((watcher) => watcher(done, total));
    const result = start(report, stop.signal);
    const forget = () => void this.#running.delete(key);
    const running = { result, ended: result.then(forget, forget), stop, watchers };
    this.#running.set(key, running);
    return running;
  }
}

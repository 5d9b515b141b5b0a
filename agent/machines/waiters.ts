/** Callers that wait for something to be over, each with a limit of its own. */
export class Waiters {
  readonly #waiting = new Set<() => void>();

  /** Resolves on the next release, after `limitMs`, or when the signal aborts, whichever is first. */
  wait(limitMs: number, signal: AbortSignal): Promise<void> {
    if (limitMs <= 0 || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, limitMs);
      signal.addEventListener("abort", done, { once: true });
      this.#waiting.add(done);
    });
  }

  release(): void {
    for (const done of [...this.#waiting]) done();
  }
}

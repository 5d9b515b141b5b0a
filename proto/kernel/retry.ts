import { Fault, toFault } from "./fault.ts";

export interface BackoffOptions {
  readonly baseMs: number;
  readonly capMs: number;
}

/**
 * Full-jitter exponential backoff: a random wait between 0 and min(cap, base * 2^attempt),
 * never under a tenth of that so that a loop cannot spin.
 * @param attempt 0 for the first retry
 */
export function backoffMs(
  attempt: number,
  { baseMs, capMs }: BackoffOptions,
  random: () => number = Math.random,
): number {
  const ceiling = Math.min(capMs, baseMs * 2 ** Math.min(attempt, 30));
  return Math.round(ceiling * (0.1 + 0.9 * random()));
}

/** Waits, or throws the signal's reason as soon as it aborts. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortFault(signal));
    const done = () => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    };
    const timer = setTimeout(done, ms);
    const aborted = () => {
      clearTimeout(timer);
      reject(abortFault(signal));
    };
    signal?.addEventListener("abort", aborted, { once: true });
  });
}

function abortFault(signal: AbortSignal | undefined): Fault {
  const reason: unknown = signal?.reason;
  if (reason instanceof Fault) return reason;
  return new Fault("unavailable", "the wait was cancelled", { reason: "CANCELLED", cause: reason });
}

export interface RetryOptions extends BackoffOptions {
  readonly attempts: number;
  readonly signal: AbortSignal;
  /** Which faults are worth another try. Default: those marked retryable. */
  readonly when?: (fault: Fault) => boolean;
  /** Makes the retries visible. */
  readonly onRetry?: (fault: Fault, attempt: number, waitMs: number) => void;
}

/** Runs `work` up to `attempts` times with backoff between; throws the last fault. */
export async function retry<T>(work: () => Promise<T>, options: RetryOptions): Promise<T> {
  const worthwhile = options.when ?? ((fault: Fault) => fault.retryable);
  for (let attempt = 0; ; attempt++) {
    try {
      return await work();
    } catch (thrown) {
      const fault = toFault(thrown);
      const last = attempt + 1 >= options.attempts;
      if (last || options.signal.aborted || !worthwhile(fault)) throw thrown;
      const waitMs = backoffMs(attempt, options);
      options.onRetry?.(fault, attempt, waitMs);
      await sleep(waitMs, options.signal);
    }
  }
}

/** A signal that aborts with an `unavailable` fault after `ms`, or when `parent` does. */
export function deadline(ms: number, what: string, parent?: AbortSignal): AbortSignal & Disposable {
  const controller = new AbortController();
  const timer = setTimeout(() => {
    controller.abort(
      new Fault("unavailable", `${what} took longer than ${String(ms)} ms`, { reason: "TIMEOUT" }),
    );
  }, ms);
  if (typeof timer === "object") timer.unref(); // a number in browsers, where the SDK runs too
  const forward = () => controller.abort(parent?.reason);
  if (parent?.aborted) forward();
  else parent?.addEventListener("abort", forward, { once: true });
  const dispose = () => {
    clearTimeout(timer);
    parent?.removeEventListener("abort", forward);
  };
  return Object.assign(controller.signal, { [Symbol.dispose]: dispose });
}

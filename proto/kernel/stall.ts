/** Waiting for data that may never come. */
import { Fault } from "./fault.ts";

/** The fault to throw when a signal ended the work: its own reason, if that is one. */
export function cancelled(signal: AbortSignal): Fault {
  const reason: unknown = signal.reason;
  if (reason instanceof Fault) return reason;
  return new Fault("unavailable", "the work was cancelled", { reason: "CANCELLED", cause: reason });
}

/** Waits for work that cannot be cancelled itself; when the signal aborts, its result is dropped. */
export function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const aborted = () => reject(cancelled(signal));
    if (signal.aborted) aborted();
    else signal.addEventListener("abort", aborted, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", aborted));
  });
}

/**
 * Passes a source on, and throws `unavailable` SERVER_STALLED when it yields nothing for `stallMs`
 * although the consumer waits. A slow consumer is no stall.
 * @param open gets a signal that aborts when the source is no longer wanted
 */
export async function* stallLimited<T>(
  open: (signal: AbortSignal) => AsyncIterable<T>,
  stallMs: number,
  signal: AbortSignal,
): AsyncGenerator<T, void, undefined> {
  const stop = new AbortController();
  const wanted = AbortSignal.any([signal, stop.signal]);
  const iterator = open(wanted)[Symbol.asyncIterator]();
  try {
    for (;;) {
      const timer = setTimeout(() => stop.abort(stalled(stallMs)), stallMs);
      const next = await unlessAborted(iterator.next(), wanted).finally(() => clearTimeout(timer));
      if (next.done) return;
      yield next.value;
    }
  } finally {
    stop.abort();
  }
}

function stalled(stallMs: number): Fault {
  return new Fault("unavailable", `nothing came for ${String(stallMs / 1000)} s`, {
    reason: "SERVER_STALLED",
  });
}

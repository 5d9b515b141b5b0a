/** Watches as server-sent events. A reconnecting client gets the whole present again, then changes. */
import { Readable } from "node:stream";
import type { WatchEvent } from "../app/resource-api.ts";
import type { RawAnswer } from "./route.ts";
import { toNative } from "./native-json.ts";

export interface SseOptions {
  /** How long the client waits before it reconnects. */
  readonly retryMs: number;
  /** A comment this often keeps proxies from closing a quiet stream and finds dead clients. */
  readonly heartbeatMs: number;
}

export const defaultSseOptions: SseOptions = { retryMs: 2_000, heartbeatMs: 15_000 };

/** The answer that streams `events` until they end, the client leaves or `signal` aborts. */
export function toEventStream(
  events: AsyncIterable<WatchEvent>,
  signal: AbortSignal,
  options: SseOptions = defaultSseOptions,
): RawAnswer {
  return {
    status: 200,
    headers: {
      "Content-Type": "text/event-stream; charset=utf-8",
      "Cache-Control": "no-store",
      "X-Accel-Buffering": "no",
    },
    raw: Readable.from(lines(events, signal, options), { objectMode: false, highWaterMark: 64 * 1024 }),
  };
}

async function* lines(events: AsyncIterable<WatchEvent>, signal: AbortSignal, options: SseOptions) {
  const source = events[Symbol.asyncIterator]();
  let arrived: IteratorResult<WatchEvent> | undefined;
  let failed: { readonly error: unknown } | undefined;
  let wake: () => void = () => undefined;
  // One reaction per event: racing one long-lived promise for every event would pile them up on it.
  const fetchNext = () => {
    source.next().then(
      (result) => {
        arrived = result;
        wake();
      },
      (error: unknown) => {
        failed = { error };
        wake();
      },
    );
  };
  const aborted = () => wake();
  signal.addEventListener("abort", aborted);
  try {
    yield `retry: ${String(options.retryMs)}\n\n`;
    fetchNext();
    while (!signal.aborted) {
      const result =
        arrived ??
        (await waitFor(
          options.heartbeatMs,
          (resolve) => (wake = resolve),
          () => arrived,
        ));
      if (failed) throw failed.error;
      if (result?.done) return;
      if (!result) {
        if (!signal.aborted) yield ": still here\n\n";
        continue;
      }
      arrived = undefined;
      yield toEvent(result.value);
      fetchNext();
    }
  } finally {
    signal.removeEventListener("abort", aborted);
    await source.return?.();
  }
}

/** Waits for the wake-up call or for `ms`, whichever is first, then reads `value`. */
async function waitFor<T>(ms: number, onWake: (wake: () => void) => void, value: () => T): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  await new Promise<void>((resolve) => {
    onWake(resolve);
    timer = setTimeout(resolve, ms);
  });
  clearTimeout(timer);
  return value();
}

function toEvent(event: WatchEvent): string {
  switch (event.type) {
    case "present":
    case "changed": {
      const { resource } = event;
      const id = `${resource.id}@${String(resource.revision)}`;
      return `event: ${event.type}\nid: ${id}\ndata: ${JSON.stringify(toNative(resource))}\n\n`;
    }
    case "removed":
      return `event: removed\ndata: ${JSON.stringify({ id: event.id })}\n\n`;
    case "synced":
      return "event: synced\ndata: {}\n\n";
  }
}

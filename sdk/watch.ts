/**
 * Watching: first what is there, then `synced`, then changes, for as long as the caller reads. A broken
 * connection is renewed without the caller noticing more than a pause: what changed meanwhile comes as
 * `changed`, what is gone as `removed`, and nothing is told twice.
 */
import { Fault, toFault } from "#kernel/fault.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import { toNetworkFault } from "./faults.ts";
import type { KindTypes, Resource } from "./kinds/resource.ts";
import { readEvents } from "./sse.ts";
import type { QueryValue, RetryNotice, Transport } from "./transport.ts";

export type WatchEvent<K extends KindTypes = KindTypes> =
  | { readonly type: "present" | "changed"; readonly resource: Resource<K> }
  | { readonly type: "synced" }
  | { readonly type: "removed"; readonly id: string };

export interface WatchOptions {
  /** Ends the watch. */
  readonly signal?: AbortSignal | undefined;
  /** A connection that is silent for this long is taken for dead. Default 60 s; the server sends heartbeats. */
  readonly silenceMs?: number;
  /** Failures in a row before the watch gives up. Default 10. */
  readonly attempts?: number;
  /** Makes reconnects visible. */
  readonly onReconnect?: (notice: RetryNotice) => void;
}

const backoff = { baseMs: 250, capMs: 15_000 };

/** Watches a path of the native API. */
export async function* watchResources<K extends KindTypes>(
  transport: Transport,
  target: { readonly path: string; readonly query: Readonly<Record<string, QueryValue>> },
  options: WatchOptions = {},
): AsyncGenerator<WatchEvent<K>, void, undefined> {
  const attempts = options.attempts ?? 10;
  const view = new View<K>();
  for (let failures = 0; ;) {
    try {
      for await (const event of connect<K>(transport, target, options)) {
        failures = 0;
        yield* view.take(event);
      }
      throw new Fault("unavailable", "the watch was ended by the server", { reason: "WATCH_ENDED" });
    } catch (thrown) {
      const fault = toFault(thrown);
      failures++;
      if (options.signal?.aborted || !fault.retryable || failures >= attempts) throw fault;
      const waitMs = backoffMs(failures - 1, backoff);
      options.onReconnect?.({ fault, attempt: failures, waitMs });
      await sleep(waitMs, options.signal);
      view.restart();
    }
  }
}

/** The events of one connection. */
async function* connect<K extends KindTypes>(
  transport: Transport,
  target: { readonly path: string; readonly query: Readonly<Record<string, QueryValue>> },
  options: WatchOptions,
): AsyncGenerator<WatchEvent<K>, void, undefined> {
  const silenceMs = options.silenceMs ?? 60_000;
  const silence = new AbortController();
  const abort = () =>
    silence.abort(new Fault("unavailable", "the watch fell silent", { reason: "WATCH_SILENT" }));
  let timer = setTimeout(abort, silenceMs);
  const signal = options.signal ? AbortSignal.any([options.signal, silence.signal]) : silence.signal;
  try {
    const response = await transport.response({
      method: "GET",
      path: target.path,
      query: { ...target.query, watch: true },
      headers: { accept: "text/event-stream, application/problem+json" },
      signal,
      attempts: 1,
    });
    for await (const { event, data } of readEvents(readBody(response, signal))) {
      clearTimeout(timer);
      timer = setTimeout(abort, silenceMs);
      const decoded = decode<K>(event, data);
      if (decoded) yield decoded;
    }
  } catch (thrown) {
    throw toNetworkFault(thrown, transport.url, signal);
  } finally {
    clearTimeout(timer);
    silence.abort(); // a caller that stops reading closes the connection
  }
}

/** The chunks of a body until the signal aborts: the request's own time limit ended with its headers. */
export async function* readBody(
  response: Response,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  const reader = (response.body as ReadableStream<Uint8Array> | null)?.getReader();
  if (!reader) return;
  const cancel = () => void reader.cancel(signal.reason).catch(() => undefined);
  signal.addEventListener("abort", cancel, { once: true });
  try {
    for (;;) {
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (done) return;
      yield value;
    }
  } finally {
    signal.removeEventListener("abort", cancel);
    await reader.cancel().catch(() => undefined); // already closed or broken: either way it is over
  }
}

function decode<K extends KindTypes>(event: string, data: string): WatchEvent<K> | undefined {
  switch (event) {
    case "present":
    case "changed":
      return { type: event, resource: JSON.parse(data) as Resource<K> };
    case "removed":
      return { type: event, id: (JSON.parse(data) as { id: string }).id };
    case "synced":
      return { type: event };
    default:
      return undefined; // heartbeats, and what later servers may add
  }
}

/** What the caller has been told, so that a new connection's recital can be turned into changes. */
class View<K extends KindTypes> {
  readonly #told = new Map<string, string>();
  #unconfirmed: Set<string> | undefined;
  #synced = false;

  restart(): void {
    if (this.#synced) this.#unconfirmed = new Set(this.#told.keys());
  }

  *take(event: WatchEvent<K>): Generator<WatchEvent<K>, void, undefined> {
    switch (event.type) {
      case "present":
      case "changed":
        yield* this.#takeResource(event.type, event.resource);
        break;
      case "removed":
        if (this.#told.delete(event.id)) yield event;
        break;
      case "synced":
        for (const id of this.#unconfirmed ?? []) {
          this.#told.delete(id);
          yield { type: "removed", id };
        }
        this.#unconfirmed = undefined;
        if (!this.#synced) yield event;
        this.#synced = true;
    }
  }

  *#takeResource(
    type: "present" | "changed",
    resource: Resource<K>,
  ): Generator<WatchEvent<K>, void, undefined> {
    const digest = JSON.stringify(resource);
    this.#unconfirmed?.delete(resource.id);
    if (this.#told.get(resource.id) === digest) return;
    this.#told.set(resource.id, digest);
    yield { type: this.#synced ? "changed" : type, resource };
  }
}

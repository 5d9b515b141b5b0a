/**
 * Requests over fetch(), in Node and in browsers. Every request has a time limit per attempt, takes a
 * signal, and is repeated with backoff when the cloud is busy or out of reach. Repeating is safe: a POST
 * always carries an idempotency key, the other methods are idempotent. A body that is a stream can be
 * sent only once, so it is never repeated.
 */
import { Fault } from "#kernel/fault.ts";
import { backoffMs, deadline, sleep } from "#kernel/retry.ts";
import { retryAfterMs, toNetworkFault, toResponseFault } from "./faults.ts";

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Limit of each attempt, until the answer is there. Default 30 s, plus what the server is asked to wait. */
  readonly timeoutMs?: number | undefined;
}

export type QueryValue = string | number | boolean | readonly string[] | undefined;

export interface Call extends CallOptions {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** Below the cloud's URL, beginning with a slash. */
  readonly path: string;
  readonly query?: Readonly<Record<string, QueryValue>>;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Sent as it is, once. */
  readonly stream?: ReadableStream<Uint8Array> | Blob | Uint8Array;
  /** Default: a new one for every POST. */
  readonly idempotencyKey?: string | undefined;
  /** Overrides the transport's number of attempts. */
  readonly attempts?: number;
}

/** Where requests get their Authorization header from. */
export interface Credentials {
  /** The header's value, or undefined to ask as nobody. */
  authorization(signal: AbortSignal): Promise<string | undefined>;
  /** The header was refused: true when a new one is there and the request is worth repeating. */
  renew(refused: string, signal: AbortSignal): Promise<boolean>;
}

export interface RetryNotice {
  readonly fault: Fault;
  /** 1 for the first retry. */
  readonly attempt: number;
  readonly waitMs: number;
}

export interface TransportOptions {
  /** The cloud's address, such as `http://127.0.0.1:8000`. */
  readonly url: string;
  readonly credentials?: Credentials;
  readonly fetch?: typeof fetch;
  /** How often a request is tried in all. Default 5. */
  readonly attempts?: number;
  /** Makes retries visible. */
  readonly onRetry?: (notice: RetryNotice) => void;
}

const defaultTimeoutMs = 30_000;
const backoff = { baseMs: 200, capMs: 10_000 };
/** A server that asks for a longer pause is not waited for: the caller decides. */
const longestPauseMs = 30_000;

export class Transport {
  readonly url: string;
  readonly credentials: Credentials | undefined;
  readonly #fetch: typeof fetch;
  readonly #attempts: number;
  readonly #onRetry: (notice: RetryNotice) => void;

  constructor(options: TransportOptions) {
    this.url = options.url.replace(/\/+$/, "");
    this.credentials = options.credentials;
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.#attempts = options.attempts ?? 5;
    this.#onRetry = options.onRetry ?? (() => undefined);
  }

  /** The JSON body of the answer; undefined when it has none. */
  async json<T>(call: Call): Promise<T | undefined> {
    return (await this.exchange<T>(call)).body;
  }

  /** The JSON body of the answer together with its headers. */
  exchange<T>(call: Call): Promise<{ readonly body: T | undefined; readonly headers: Headers }> {
    return this.#perform(call, async (response) => {
      const text = await response.text();
      return { headers: response.headers, body: text === "" ? undefined : parseAnswer<T>(text) };
    });
  }

  /** The JSON body of an answer that always has one. */
  async required<T>(call: Call): Promise<T> {
    const body = await this.json<T>(call);
    if (body !== undefined) return body;
    const message = `${call.method} ${call.path} was answered without a body`;
    throw new Fault("internal", message, { reason: "ANSWER_MALFORMED" });
  }

  /** The answer as soon as its headers are there; its body is the caller's to read, without time limit. */
  response(call: Call): Promise<Response> {
    return this.#perform(call, (response) => Promise.resolve(response));
  }

  /** The URL of a path and query. */
  href(path: string, query: Readonly<Record<string, QueryValue>> = {}): string {
    const url = new URL(this.url + path);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(name, String(value)); // a list becomes a,b,c
    }
    return url.href;
  }

  async #perform<T>(call: Call, read: (response: Response) => Promise<T>): Promise<T> {
    const headers = this.#headersOf(call);
    const attempts = call.stream ? 1 : (call.attempts ?? this.#attempts);
    let renewed = false;
    for (let attempt = 1; ; attempt++) {
      const outcome = await this.#attempt(call, headers, read);
      if (!("fault" in outcome)) return outcome.value;
      const { fault, pauseMs } = outcome;
      if (fault.code === "unauthenticated" && !renewed && !call.stream && (await outcome.renew?.())) {
        renewed = true;
        continue;
      }
      const worthwhile = fault.retryable && attempt < attempts && pauseMs <= longestPauseMs;
      if (!worthwhile || call.signal?.aborted) throw fault;
      const waitMs = Math.max(pauseMs, backoffMs(attempt - 1, backoff));
      this.#onRetry({ fault, attempt, waitMs });
      await sleep(waitMs, call.signal);
    }
  }

  async #attempt<T>(
    call: Call,
    headers: Headers,
    read: (response: Response) => Promise<T>,
  ): Promise<Outcome<T>> {
    const url = this.href(call.path, call.query);
    using limit = deadline(call.timeoutMs ?? defaultTimeoutMs, `${call.method} ${call.path}`, call.signal);
    let authorization: string | undefined;
    try {
      authorization = await this.credentials?.authorization(limit);
      if (authorization) headers.set("authorization", authorization);
      const response = await this.#fetch(url, {
        method: call.method,
        headers,
        signal: limit,
        ...bodyOf(call),
      });
      if (response.ok) return { value: await read(response) };
      const fault = await toResponseFault(response);
      const refused = authorization;
      return {
        fault,
        pauseMs: retryAfterMs(response, Date.now()),
        ...(refused && {
          renew: async () => (await this.credentials?.renew(refused, limitOf(call))) ?? false,
        }),
      };
    } catch (thrown) {
      return { fault: toNetworkFault(thrown, url, limit), pauseMs: 0 };
    }
  }

  #headersOf(call: Call): Headers {
    const headers = new Headers({ accept: "application/json, application/problem+json", ...call.headers });
    if (call.body !== undefined) headers.set("content-type", "application/json");
    if (call.method === "POST") headers.set("idempotency-key", call.idempotencyKey ?? newIdempotencyKey());
    return headers;
  }
}

type Outcome<T> =
  | { readonly value: T }
  | { readonly fault: Fault; readonly pauseMs: number; readonly renew?: () => Promise<boolean> };

const limitOf = (call: Call): AbortSignal => call.signal ?? AbortSignal.timeout(defaultTimeoutMs);

function bodyOf(call: Call): RequestInit {
  if (call.stream) return { body: call.stream, duplex: "half" };
  return call.body === undefined ? {} : { body: JSON.stringify(call.body) };
}

function parseAnswer<T>(text: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    const message = "the answer is not JSON; is this the address of a Skerry cloud?";
    throw new Fault("internal", message, { reason: "ANSWER_MALFORMED", cause });
  }
}

/** 128 random bits in hexadecimal. */
export function newIdempotencyKey(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}

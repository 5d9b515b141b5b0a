/**
 * An instance's serial console over WebSocket. The server's log of the port has byte offsets; the client
 * knows the offset it has seen, so a broken connection goes on exactly where it was: nothing is lost and
 * nothing comes twice. What is typed while there is no connection is dropped: it was meant for a screen
 * that nobody could see.
 */
import { Fault, isFault, toFault } from "#kernel/fault.ts";
import { backoffMs, deadline, sleep } from "#kernel/retry.ts";
import { cancelled } from "./faults.ts";
import { connectSocket, type Socket, type SocketFactory } from "./socket.ts";
import type { RetryNotice, Transport } from "./transport.ts";

export interface ConsoleOptions {
  /** Byte of the log to begin with. Default: the last 64 KiB. */
  readonly offset?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Limit of each attempt to connect. Default 15 s. */
  readonly timeoutMs?: number;
  /** Failures in a row before it gives up. Default 10. */
  readonly attempts?: number;
  readonly onConnect?: () => void;
  readonly onReconnect?: (notice: RetryNotice) => void;
  /** How WebSockets are opened. Default: the browser's, or the `ws` package. */
  readonly connect?: SocketFactory;
}

/** Read it with `for await`; leaving the loop closes it. */
export interface Console extends AsyncIterable<Uint8Array> {
  /** Offset in the log of the byte after the last one read. */
  readonly offset: number | undefined;
  /** Types; false when there is no connection and nothing was sent. */
  write(input: Uint8Array | string): boolean;
  close(): void;
}

const backoff = { baseMs: 250, capMs: 10_000 };
/** A connection that held this long is no failure, even if the machine had nothing to say. */
const heldMs = 30_000;

/** Joins the console at a path of the native API. */
export function openConsole(transport: Transport, path: string, options: ConsoleOptions = {}): Console {
  const closing = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, closing.signal]) : closing.signal;
  let offset = options.offset;
  let socket: Socket | undefined;

  async function connect(): Promise<Socket> {
    using limit = deadline(options.timeoutMs ?? 15_000, "connecting to the console", signal);
    const attempt = async (authorization: string | undefined) => {
      const url = transport.href(path, { offset }).replace(/^http/, "ws");
      return (options.connect ?? connectSocket)({ url, authorization, signal: limit });
    };
    const { credentials } = transport;
    const authorization = await credentials?.authorization(limit);
    try {
      return await attempt(authorization);
    } catch (thrown) {
      const refused = isFault(thrown, "unauthenticated") && authorization !== undefined;
      if (!refused || !(await credentials?.renew(authorization, limit))) throw thrown;
      return attempt(await credentials?.authorization(limit));
    }
  }

  async function* session(): AsyncGenerator<Uint8Array, void, undefined> {
    const opened = await connect();
    socket = opened;
    const close = () => opened.close();
    signal.addEventListener("abort", close, { once: true });
    try {
      options.onConnect?.();
      for await (const frame of opened.frames) {
        if (typeof frame === "string") {
          offset = offsetIn(frame) ?? offset;
        } else {
          offset = offset === undefined ? undefined : offset + frame.byteLength;
          yield frame;
        }
      }
    } finally {
      signal.removeEventListener("abort", close);
      socket = undefined;
      opened.close();
    }
  }

  async function* output(): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      for (let failures = 0; ;) {
        const startedAt = Date.now();
        try {
          for await (const chunk of session()) {
            failures = 0;
            yield chunk;
          }
          throw new Fault("unavailable", "the console's connection was closed", { reason: "CONSOLE_CLOSED" });
        } catch (thrown) {
          if (closing.signal.aborted) return;
          const fault = toFault(thrown);
          failures = Date.now() - startedAt > heldMs ? 1 : failures + 1;
          if (signal.aborted) throw cancelled(signal);
          if (!fault.retryable || failures >= (options.attempts ?? 10)) throw fault;
          const waitMs = backoffMs(failures - 1, backoff);
          options.onReconnect?.({ fault, attempt: failures, waitMs });
          await sleep(waitMs, signal);
        }
      }
    } finally {
      closing.abort();
    }
  }

  return {
    get offset() {
      return offset;
    },
    write(input) {
      socket?.send(typeof input === "string" ? new TextEncoder().encode(input) : input);
      return socket !== undefined;
    },
    close: () => closing.abort(),
    [Symbol.asyncIterator]: output,
  };
}

/** The offset that a control frame tells: where the next byte of output is. */
function offsetIn(frame: string): number | undefined {
  const { offset } = JSON.parse(frame) as { offset?: number };
  return offset;
}

/** Calls of podman's REST interface, over its socket. */
import { request, type IncomingMessage } from "node:http";
import { createInterface } from "node:readline";
import { pipeline } from "node:stream/promises";
import { Fault, type FaultCode } from "#kernel/fault.ts";
import { cancelled } from "#kernel/stall.ts";

export interface CallOptions {
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  /** In the place of `body`: bytes as they are. */
  readonly content?: AsyncIterable<Uint8Array>;
  readonly signal: AbortSignal;
}

/** The version of the interface that is spoken; every podman since 4.0 does. */
const base = "/v4.0.0/libpod";
const mostAnswerBytes = 8 * 1024 * 1024;

const codes: Readonly<Record<number, FaultCode>> = { 400: "invalid", 404: "notFound", 409: "conflict" };

export class PodmanClient {
  readonly #socketPath: string;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  /** The answer's body. Throws `unavailable` PODMAN_UNREACHABLE, or what podman refuses it with. */
  async call(method: string, path: string, options: CallOptions): Promise<unknown> {
    const response = await this.#send(method, path, options);
    const text = await readText(response, options.signal);
    const status = response.statusCode ?? 0;
    if (status >= 400) throw refusal(status, text);
    return text.trim() === "" ? undefined : parse(text);
  }

  /** As {@link call}, of what is told line by line until the signal aborts. */
  async stream(method: string, path: string, options: CallOptions): Promise<AsyncGenerator<unknown, void>> {
    const response = await this.#send(method, path, options);
    const status = response.statusCode ?? 0;
    if (status >= 400) throw refusal(status, await readText(response, options.signal));
    return this.#lines(response, options);
  }

  async *#lines(response: IncomingMessage, options: CallOptions): AsyncGenerator<unknown, void> {
    try {
      for await (const line of createInterface({ input: response, crlfDelay: Infinity })) {
        if (line.trim() !== "") yield parse(line);
      }
    } catch (cause) {
      throw options.signal.aborted ? cancelled(options.signal) : unreachable(cause);
    } finally {
      response.destroy();
    }
  }

  async #send(
    method: string,
    path: string,
    { query = {}, body, content, signal }: CallOptions,
  ): Promise<IncomingMessage> {
    signal.throwIfAborted();
    const search = new URLSearchParams(query).toString();
    const type = content ? "application/x-tar" : "application/json";
    return await new Promise((resolve, reject) => {
      const failed = (cause: unknown) =>
        reject(signal.aborted ? cancelled(signal) : cause instanceof Fault ? cause : unreachable(cause));
      const outgoing = request(
        {
          socketPath: this.#socketPath,
          method,
          path: `${base}${path}${search === "" ? "" : `?${search}`}`,
          headers: { host: "podman", ...(body !== undefined || content ? { "content-type": type } : {}) },
          agent: false,
          signal,
        },
        (response) => {
          response.on("error", () => outgoing.destroy()); // met again by whoever reads
          resolve(response);
        },
      );
      outgoing.on("error", failed);
      if (content) pipeline(content, outgoing, { signal }).catch(failed);
      else outgoing.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }
}

async function readText(response: IncomingMessage, signal: AbortSignal): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > mostAnswerBytes) throw new Fault("internal", "podman's answer is too large");
      chunks.push(chunk);
    }
  } catch (cause) {
    if (cause instanceof Fault) throw cause;
    throw signal.aborted ? cancelled(signal) : unreachable(cause);
  }
  return Buffer.concat(chunks).toString();
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text; // some answers are a word
  }
}

function unreachable(cause: unknown): Fault {
  return new Fault("unavailable", "the host's podman cannot be reached", {
    reason: "PODMAN_UNREACHABLE",
    cause,
  });
}

/** podman says what was wrong in `cause`, and around it in `message`, with paths of the host. */
function refusal(status: number, text: string): Fault {
  const { cause = "" } = (parse(text) ?? {}) as { readonly cause?: string };
  const message = cause === "" ? "podman did not do it" : `podman did not do it: ${cause.slice(0, 300)}`;
  return new Fault(codes[status] ?? "internal", message, {
    reason: "PODMAN_REFUSED",
    detail: { status },
    cause: new Error(text.slice(0, 4096)),
  });
}

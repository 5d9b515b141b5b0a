/** A cloud that says what a test tells it to say, over real HTTP and WebSockets, and remembers what it was asked. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { WebSocketServer, type WebSocket } from "ws";

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingMessage["headers"];
  readonly body: unknown;
}

export interface Reply {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** An object is sent as JSON, text as it is. */
  readonly body?: unknown;
  /** Writes the answer itself: streams, and connections that break. */
  readonly raw?: (response: ServerResponse) => void;
}

export type Handler = (asked: Asked) => Reply | Promise<Reply>;

export class ScriptedCloud implements AsyncDisposable {
  readonly asked: Asked[] = [];
  readonly #server = createServer((request, response) => void this.#answer(request, response));
  readonly #sockets = new WebSocketServer({ noServer: true });
  readonly #handlers = new Map<string, Handler[]>();
  #console: ((socket: WebSocket, asked: Asked) => void) | undefined;

  /** Starts on a free port of loopback. */
  static async start(): Promise<ScriptedCloud> {
    const cloud = new ScriptedCloud();
    cloud.#server.on("upgrade", (request, socket, head) => cloud.#upgrade(request, socket, head));
    await new Promise<void>((resolve) => cloud.#server.listen(0, "127.0.0.1", resolve));
    return cloud;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Answers to a route: one after the other, the last for good. A query takes no part in the match. */
  on(route: string, ...handlers: readonly (Handler | Reply)[]): this {
    const given = handlers.map((each) => (typeof each === "function" ? each : () => each));
    this.#handlers.set(route, given);
    return this;
  }

  onConsole(handler: (socket: WebSocket, asked: Asked) => void): this {
    this.#console = handler;
    return this;
  }

  /** What was asked of a route. */
  askedOf(route: string): Asked[] {
    return this.asked.filter(({ method, path }) => `${method} ${path}` === route);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets.clients) socket.terminate();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const asked = read(request, Buffer.concat(chunks).toString());
    this.asked.push(asked);
    const handlers = this.#handlers.get(`${asked.method} ${asked.path}`) ?? [];
    const handler = handlers.length > 1 ? handlers.shift() : handlers[0];
    const reply = (await handler?.(asked)) ?? problem(404, "notFound", "NOT_FOUND", "there is no such thing");
    if (reply.raw) return reply.raw(response);
    const text = typeof reply.body === "string" ? reply.body : JSON.stringify(reply.body);
    response.writeHead(reply.status ?? 200, { "content-type": "application/json", ...reply.headers });
    response.end(reply.body === undefined ? undefined : text);
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const asked = read(request, "");
    this.asked.push(asked);
    const refusal = this.#handlers.get(`UPGRADE ${asked.path}`)?.shift();
    if (refusal) {
      const { status = 500, body } = refusal(asked) as Reply;
      const text = JSON.stringify(body);
      const head = `HTTP/1.1 ${status} No\r\nConnection: close\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n`;
      socket.end(head + text);
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (client) => this.#console?.(client, asked));
  }
}

function read(request: IncomingMessage, text: string): Asked {
  const url = new URL(request.url ?? "/", "http://cloud");
  const isJson = (request.headers["content-type"] ?? "").includes("json");
  return {
    method: request.method ?? "",
    path: url.pathname,
    query: url.searchParams,
    headers: request.headers,
    body: isJson && text !== "" ? (JSON.parse(text) as unknown) : text,
  };
}

/** A fault as the native API answers it. */
export function problem(
  status: number,
  code: string,
  reason: string,
  detail: string,
  extra: {
    readonly details?: object;
    readonly retryable?: boolean;
    readonly headers?: Record<string, string>;
  } = {},
): Reply {
  const { details = {}, retryable = code === "unavailable", headers = {} } = extra;
  const body = {
    type: "about:blank",
    title: "No",
    status,
    detail,
    code,
    reason,
    details,
    retryable,
    request_id: "req-1",
  };
  return { status, headers: { "content-type": "application/problem+json", ...headers }, body };
}

/** A stream of server-sent events; it stays open unless `end` is set. */
export function events(list: readonly (readonly [event: string, data: unknown])[], end = false): Reply {
  const text = list.map(([event, data]) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`).join("");
  return {
    raw: (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(`: hello\n\n${text}`, () => end && response.destroy());
    },
  };
}

/** An instance as the API shows it. */
export function anInstance(changes: { readonly [field: string]: unknown } = {}) {
  return {
    id: "vm-0123456789abcdefghjk",
    kind: "instance",
    project: "root",
    name: "web",
    labels: { tier: "front" },
    generation: 1,
    observed_generation: 1,
    phase: "running",
    problem: null,
    spec: {
      image: "micro",
      cpus: 2,
      memory_bytes: 512 * 1024 ** 2,
      disk_bytes: 4 * 1024 ** 3,
      power: "on",
      restarts: 0,
      provider: null,
      region: null,
      network: "default",
      hostname: null,
      ssh_keys: [],
      user_data: "",
      forwards: [],
      restart_policy: "on-failure",
      stop_timeout_seconds: 30,
    },
    status: null,
    placement: {
      host_id: "host-0123456789abcdefghjk",
      provider: "aws",
      region: "us-east-1",
      zone: "us-east-1a",
    },
    created_at: "2026-01-01T00:00:00.000Z",
    updated_at: "2026-01-01T00:00:00.000Z",
    deleting_at: null,
    ...changes,
  };
}

/** One page with everything. */
export const page = (items: readonly unknown[]): Reply => ({
  body: { items, total: items.length, next_cursor: null },
});

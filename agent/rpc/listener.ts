/**
 * The agent's own port: its services for other hosts and for operators' tools, over mutual TLS. Nobody
 * without a certificate of this cloud gets past the handshake, and the certificate says who calls. Tools
 * verify the host by the name in its certificate, which is its id: addresses change.
 */
import type { ServerResponse } from "node:http";
import http2, { type Http2SecureServer, type Http2ServerResponse } from "node:http2";
import type { AddressInfo } from "node:net";
import type { SecureContextOptions, TLSSocket } from "node:tls";
import type { Duplex } from "node:stream";
import { keepAlive } from "#kernel/keep-alive.ts";
import type { Logger } from "#kernel/log.ts";
import { type Peer, peerOf } from "#kernel/peer.ts";
import { prometheusType } from "#kernel/prometheus.ts";
import type { Identity } from "../control/identity.ts";
import type { Caller } from "./caller.ts";
import { createRpcHandler, type AgentServices, type RpcRequest } from "./handler.ts";
import { refusePull, routePulls } from "./pulls.ts";

export interface ListenerOptions {
  readonly identity: Identity;
  readonly services: AgentServices;
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly keepAliveMs: number;
  /** What `GET /metrics` answers operators, in Prometheus' text format. Absent: there is no such path. */
  readonly metrics?: () => Promise<string>;
  readonly log: Logger;
}

const handshakeTimeoutMs = 10_000;

export class Listener implements AsyncDisposable {
  readonly #server: Http2SecureServer;
  readonly #sockets = new Set<Duplex>();
  readonly #callers = new WeakMap<object, Caller>();
  readonly #renewals: Disposable;

  private constructor({ identity, services, keepAliveMs, metrics, log }: ListenerOptions) {
    const handler = createRpcHandler(services, (request) => this.#callerOf(request) ?? "host");
    const server = http2.createSecureServer(
      {
        ...secureContext(identity),
        allowHTTP1: true,
        requestCert: true,
        rejectUnauthorized: true,
        handshakeTimeout: handshakeTimeoutMs,
      },
      (request, response) => {
        const caller = this.#callerOf(request);
        if (caller === "operator" && metrics && request.url === "/metrics" && request.method === "GET")
          void answerMetrics(response, metrics, log);
        else if (caller) handler(request, response);
        else response.writeHead(403).end();
      },
    );
    const { pull } = services;
    if (pull) {
      routePulls(server, (stream, headers) => {
        const peer = stream.session && peerBehind(stream.session.socket as TLSSocket);
        if (peer?.role === "host") pull(stream, headers, peer.name);
        else refusePull(stream);
      });
    }
    server.on("connection", (socket: Duplex) => {
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
    });
    server.on("session", (session) => {
      keepAlive(session, keepAliveMs);
    });
    for (const event of ["tlsClientError", "sessionError"]) {
      server.on(event, (error: Error) => {
        log.debug("listener.connection-failed", { event, error });
      });
    }
    this.#server = server;
    this.#renewals = identity.onChange(() => {
      server.setSecureContext(secureContext(identity));
    });
  }

  /** Opens the port. The host must have enrolled: its certificate is the port's. */
  static async listen(options: ListenerOptions): Promise<Listener> {
    const listener = new Listener(options);
    await new Promise<void>((resolve, reject) => {
      listener.#server.once("error", reject);
      listener.#server.listen(options.port, options.host, resolve);
    });
    return listener;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#renewals[Symbol.dispose]();
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  /** Worked out once per connection; undefined for a certificate that speaks for nobody we serve. */
  #callerOf(request: RpcRequest): Caller | undefined {
    const connection = "stream" in request ? request.stream.session : request.socket;
    if (!connection) return undefined; // the caller has hung up
    const known = this.#callers.get(connection);
    if (known) return known;
    const role = peerBehind(request.socket as TLSSocket)?.role;
    if (role !== "operator" && role !== "host") return undefined;
    this.#callers.set(connection, role);
    return role;
  }
}

type Response = Http2ServerResponse | ServerResponse;

async function answerMetrics(response: Response, metrics: () => Promise<string>, log: Logger): Promise<void> {
  try {
    const text = await metrics();
    response.writeHead(200, { "content-type": prometheusType });
    response.end(text);
  } catch (fault) {
    log.warn("listener.no-metrics", { fault });
    response.writeHead(503).end();
  }
}

function peerBehind(socket: TLSSocket): Peer | undefined {
  const certificate = socket.getPeerX509Certificate();
  return certificate && peerOf(certificate);
}

function secureContext({ credentials }: Identity): SecureContextOptions {
  return { ...credentials, minVersion: "TLSv1.2" };
}

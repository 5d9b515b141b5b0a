/**
 * Where agents dial in: one TLS port, two protocols told apart by ALPN. On `skerry-agent/1` the connection is turned
 * round: the agent serves HTTP/2 on the socket that it dialled, and the control plane calls it, also for its reports.
 * That one lasts; on `h2` the agent calls ControlService for a while: to join, to renew its certificate, for files.
 *
 * The TLS layer asks for a certificate but refuses none: enrolment has none yet and renewal may come with
 * an expired one, so each call decides. The handshake has proved that the peer holds the key; that the
 * certificate is ours is verified here, against our own root and clock.
 */
import http2, { type Http2ServerRequest, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import tls, { type TLSSocket } from "node:tls";
import { createContextValues } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  ControlService,
  type ReportRequest,
  type ReportResponse,
} from "#gen/skerry/control/v1/control_pb.js";
import { toFault } from "#kernel/fault.ts";
import { keepAlive } from "#kernel/keep-alive.ts";
import type { Logger } from "#kernel/log.ts";
import type { VerifiedPeer } from "./authority.ts";
import { agentAuthority, type Connections } from "./connections.ts";
import {
  callerKey,
  controlService,
  hostOf,
  hostRemoved,
  type Caller,
  type ControlServiceDeps,
  type HostRegistry,
} from "./control-service.ts";
import { dismiss } from "./dismissal.ts";
import { faultInterceptor } from "./faults.ts";
import { MigrationRelay, pullPath, type MoveRegistry } from "./migration-relay.ts";
import { ReplicaLinks, type ReplicaLinksOptions } from "./replica-links.ts";
import { openReportCall } from "./report-call.ts";

export const agentProtocol = "skerry-agent/1";

export interface ReportSink {
  report(
    hostId: string,
    report: ReportRequest,
  ): Promise<Pick<ReportResponse, "nextReportMs" | "wantFull" | "leaseMs">>;
}

export interface GatewayOptions extends ControlServiceDeps {
  readonly reports: ReportSink;
  readonly connections: Connections;
  readonly moves: MoveRegistry;
  readonly replicaId: string;
  readonly locate: ReplicaLinksOptions["locate"];
  readonly log: Logger;
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  /** DNS names and addresses for the gateway's certificate. Agents do not depend on them. */
  readonly names: readonly string[];
  /** A connection on which nothing was received for this long is dead. */
  readonly keepAliveMs: number;
}

const certificateLifeMs = 30 * 86_400_000;
const handshakeTimeoutMs = 10_000;
/** Without a certificate one may enrol, which takes a moment; not stay. */
const anonymousTimeoutMs = 30_000;
/** The largest message that is not a file's content: a full report of a host with thousands of machines. */
const readMaxBytes = 32 * 1024 * 1024;
const anonymousReadMaxBytes = 64 * 1024;

/** What a host may send ahead: with less, a relayed migration would wait for each round trip. */
const streamWindowBytes = 4 * 1024 * 1024;
const sessionWindowBytes = 16 * 1024 * 1024;

export class Gateway implements AsyncDisposable {
  readonly #options: GatewayOptions;
  readonly #server: tls.Server;
  readonly #control: http2.Http2Server;
  readonly #callers = new Map<ServerHttp2Session, Caller>();
  readonly #sockets = new Set<TLSSocket>();
  readonly #renewal: NodeJS.Timeout;

  private constructor(options: GatewayOptions, credentials: tls.SecureContextOptions) {
    this.#options = options;
    this.#control = this.#createControlServer();
    this.#server = tls.createServer({
      ...credentials,
      ALPNProtocols: [agentProtocol, "h2"],
      requestCert: true,
      rejectUnauthorized: false,
      handshakeTimeout: handshakeTimeoutMs,
    });
    this.#server.on("secureConnection", (socket: TLSSocket) => {
      this.#accept(socket);
    });
    this.#server.on("tlsClientError", (error) => {
      options.log.debug("gateway.handshake-failed", { error });
    });
    this.#renewal = setInterval(() => {
      void this.#renewCertificate();
    }, certificateLifeMs / 3);
    this.#renewal.unref();
  }

  /** Opens the port; the gateway's own certificate is made here and renewed at a third of its life. */
  static async listen(options: GatewayOptions): Promise<Gateway> {
    const gateway = new Gateway(options, await issueCredentials(options));
    await new Promise<void>((resolve, reject) => {
      gateway.#server.once("error", reject);
      gateway.#server.listen(options.port, options.host, resolve);
    });
    return gateway;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** How many connections are open, whoever they belong to. */
  get openSockets(): number {
    return this.#sockets.size;
  }

  /** Cuts a host off that was removed, and says so to its agent; it is refused from then on. */
  disconnect(hostId: string): void {
    this.#options.connections.disconnect(hostId, hostRemoved());
    for (const [session, { peer }] of this.#callers) {
      if (peer?.role === "host" && peer.name === hostId) session.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#renewal);
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #createControlServer(): http2.Http2Server {
    const { log } = this.#options;
    const service = controlService(this.#options);
    const { connections, moves } = this.#options;
    const replicas = new ReplicaLinks({ ...this.#options, windowBytes: streamWindowBytes });
    const relay = new MigrationRelay({
      findSession: (id) => connections.findSession(id),
      ...{ moves, replicas, log },
    });
    const handler = connectNodeAdapter({
      routes: (router) => {
        router.service(ControlService, service, { readMaxBytes });
        router.rpc(ControlService.method.enrol, service.enrol, { readMaxBytes: anonymousReadMaxBytes });
      },
      interceptors: [faultInterceptor(log)],
      contextValues: (request) => {
        const { session } = (request as Http2ServerRequest).stream;
        const caller = session && this.#callers.get(session as ServerHttp2Session);
        const values = createContextValues();
        return caller ? values.set(callerKey, caller) : values;
      },
    });
    const server = http2.createServer((request, response) => {
      const caller =
        request.stream.session && this.#callers.get(request.stream.session as ServerHttp2Session);
      if (request.url === pullPath && caller) void relay.serve(request, response, caller);
      else handler(request, response);
    });
    server.on("sessionError", (error) => {
      log.debug("gateway.session-error", { error });
    });
    return server;
  }

  #accept(socket: TLSSocket): void {
    this.#sockets.add(socket);
    socket.once("close", () => this.#sockets.delete(socket));
    socket.on("error", (error) => {
      this.#options.log.debug("gateway.socket-error", { error });
    });
    const certificate = socket.getPeerX509Certificate();
    const peer = certificate && this.#options.authority.verify(certificate);
    const caller = { peer, admit: admission(peer, this.#options.registry) };
    if (socket.alpnProtocol === agentProtocol) void this.#turnRound(socket, caller);
    else if (socket.alpnProtocol === "h2") this.#serve(socket, caller);
    else socket.destroy();
  }

  #serve(socket: TLSSocket, caller: Caller): void {
    this.#control.once("session", (session) => {
      this.#callers.set(session, caller);
      session.once("close", () => this.#callers.delete(session));
      keepAlive(session, this.#options.keepAliveMs);
      if (!caller.peer) session.setTimeout(anonymousTimeoutMs, () => session.destroy());
    });
    this.#control.emit("connection", socket);
  }

  async #turnRound(socket: TLSSocket, caller: Caller): Promise<void> {
    const { log, connections } = this.#options;
    const address = socket.remoteAddress;
    try {
      const hostId = hostOf(caller.peer);
      await caller.admit();
      if (socket.destroyed) return; // it hung up while we asked
      const session = this.#openSession(socket);
      connections.add(hostId, session);
      this.#takeReports(hostId, session);
      log.info("gateway.host-connected", { hostId, address });
    } catch (thrown) {
      const fault = toFault(thrown);
      log.warn("gateway.host-refused", { peer: caller.peer?.name, address, fault });
      if (!socket.destroyed) dismiss(this.#openSession(socket), fault);
    }
  }

  #takeReports(hostId: string, session: http2.ClientHttp2Session): void {
    const { reports, log } = this.#options;
    openReportCall(session, {
      take: (report) => reports.report(hostId, report),
      // Without it a host would be connected and never heard.
      ended: (fault) => dismiss(session, fault),
      maxBytes: readMaxBytes,
      log,
    });
  }

  /** The first frames go out only once the decision is made: for the agent they mean that it is connected. */
  #openSession(socket: TLSSocket): http2.ClientHttp2Session {
    const session = http2.connect(agentAuthority, {
      createConnection: () => socket,
      settings: { initialWindowSize: streamWindowBytes },
    });
    session.once("connect", () => session.setLocalWindowSize(sessionWindowBytes));
    session.on("error", (error) => {
      this.#options.log.debug("gateway.session-error", { error });
    });
    keepAlive(session, this.#options.keepAliveMs);
    return session;
  }

  async #renewCertificate(): Promise<void> {
    try {
      this.#server.setSecureContext(await issueCredentials(this.#options));
    } catch (error) {
      this.#options.log.error("gateway.certificate-not-renewed", { error }); // two more tries before it expires
    }
  }
}

/** The chain carries the root, too: a new host compares it with the pin in its token. */
async function issueCredentials({ authority, names }: GatewayOptions): Promise<tls.SecureContextOptions> {
  const { privatePem, certificatePem } = await authority.issueGateway(names, certificateLifeMs);
  return {
    key: privatePem,
    cert: certificatePem + authority.certificatePem,
    ca: authority.certificatePem,
    minVersion: "TLSv1.3",
  };
}

/** Asks the registry once per connection; a question that failed is asked again by the next call. */
function admission(peer: VerifiedPeer | undefined, registry: HostRegistry): () => Promise<void> {
  let admitted = false;
  return async () => {
    if (admitted || peer?.role !== "host") return;
    if (!(await registry.renewable(peer.name))) throw hostRemoved();
    admitted = true;
  };
}

/**
 * Carries the channels of a move between two hosts that cannot reach each other: the target calls `Pull` here,
 * and the call goes on over the connection that the source dialled. Bytes pass as they are, in both directions,
 * and each side is read only as fast as the other takes them.
 *
 *     target --Pull--> gateway [--Pull--> gateway of the replica that holds the source] --Pull--> source
 *
 * A call is passed on to another replica once: the one that gets it says so if it does not hold the source either. Who
 * pulls is what the target's certificate says; only a replica is believed when it says it of another.
 */
import http2, {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type IncomingHttpHeaders,
} from "node:http2";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { toRpcStatus } from "#kernel/rpc-status.ts";
import { hostNotConnected } from "./connections.ts";
import { hostOf, type Caller } from "./control-service.ts";
import type { ReplicaLinks } from "./replica-links.ts";

export const pullPath = "/skerry.agent.v1.MigrationService/Pull";
/** From the target: whom to pull from. To the source or the next gateway: who pulls, as its certificate says. */
const sourceHeader = "skerry-source-host";
const peerHeader = "skerry-peer-host";
/** Memory and a disk or more of each of a few machines at once. */
const maxStreamsPerHost = 64;
const answerTimeoutMs = 30_000;

export interface MoveRegistry {
  /** Whether a migration from the one host to the other is under way. */
  between(sourceHostId: string, targetHostId: string): Promise<boolean>;
}

export interface RelayOptions {
  readonly moves: MoveRegistry;
  /** The connection of a host that is connected here. */
  findSession(hostId: string): ClientHttp2Session | undefined;
  readonly replicas: Pick<ReplicaLinks, "open">;
  readonly log: Logger;
}

export class MigrationRelay {
  readonly #options: RelayOptions;
  readonly #open = new Map<string, number>();

  constructor(options: RelayOptions) {
    this.#options = options;
  }

  /** Serves one call; every failure is told in gRPC's own way. */
  async serve(request: Http2ServerRequest, response: Http2ServerResponse, caller: Caller): Promise<void> {
    try {
      await caller.admit();
      const passedOn = isReplica(caller);
      const targetId = passedOn ? String(request.headers[peerHeader] ?? "") : hostOf(caller.peer);
      const sourceId = String(request.headers[sourceHeader] ?? "");
      if (!(await this.#options.moves.between(sourceId, targetId))) {
        throw new Fault("denied", "no migration between these hosts is under way", {
          reason: "NO_SUCH_MOVE",
        });
      }
      if (request.stream.destroyed) return;
      this.#count(targetId, request);
      const here = this.#options.findSession(sourceId);
      if (here) this.#join(request, response, here, { [peerHeader]: targetId });
      else if (passedOn) throw hostNotConnected(sourceId);
      else await this.#passOn(request, response, sourceId, targetId);
      this.#options.log.info("relay.opened", { source: sourceId, target: targetId, here: Boolean(here) });
    } catch (thrown) {
      const fault = toFault(thrown);
      this.#options.log.warn("relay.refused", { peer: caller.peer?.name, fault });
      refuse(response, fault);
    }
  }

  async #passOn(
    request: Http2ServerRequest,
    response: Http2ServerResponse,
    sourceId: string,
    targetId: string,
  ): Promise<void> {
    const gone = new AbortController();
    const leave = () => gone.abort(new Error("the target hung up"));
    request.stream.once("close", leave);
    const link = await this.#options.replicas.open(sourceId, gone.signal);
    request.stream.off("close", leave);
    if (!link) throw hostNotConnected(sourceId);
    if (request.stream.destroyed) return link.destroy();
    const names = { [sourceHeader]: sourceId, [peerHeader]: targetId };
    this.#join(request, response, link, names).once("close", () => link.close());
  }

  #count(hostId: string, request: Http2ServerRequest): void {
    const open = this.#open.get(hostId) ?? 0;
    if (open >= maxStreamsPerHost) {
      throw new Fault("exhausted", "too many channels are open", { reason: "TOO_MANY_CHANNELS" });
    }
    this.#open.set(hostId, open + 1);
    request.stream.once("close", () => {
      const left = (this.#open.get(hostId) ?? 1) - 1;
      if (left > 0) this.#open.set(hostId, left);
      else this.#open.delete(hostId);
    });
  }

  #join(
    request: Http2ServerRequest,
    response: Http2ServerResponse,
    session: ClientHttp2Session,
    names: Readonly<Record<string, string>>,
  ): ClientHttp2Stream {
    const upstream = session.request(
      { ...passable(request.headers), ":method": "POST", ":path": pullPath, ...names },
      { endStream: false },
    );
    const timer = setTimeout(() => upstream.close(http2.constants.NGHTTP2_CANCEL), answerTimeoutMs);
    upstream.once("response", (headers, flags) => {
      clearTimeout(timer);
      const { ":status": status = 502 } = headers;
      const answer = { ":status": status, ...passable(headers) };
      if (flags & http2.constants.NGHTTP2_FLAG_END_STREAM)
        request.stream.respond(answer, { endStream: true });
      else {
        response.writeHead(status, passable(headers));
        upstream.pipe(response);
      }
    });
    upstream.once("trailers", (trailers: IncomingHttpHeaders) => response.addTrailers(passable(trailers)));
    upstream.once("error", (error) => {
      this.#options.log.debug("relay.cut", { ...names, error });
    });
    upstream.once("close", () => {
      clearTimeout(timer);
      passEnd(upstream, request, response);
    });
    request.pipe(upstream);
    request.stream.once("close", () => {
      if (!upstream.closed) upstream.close(http2.constants.NGHTTP2_CANCEL);
    });
    return upstream;
  }
}

/** Another replica calls, with a certificate that is valid: it has seen the target's. */
function isReplica({ peer }: Caller): boolean {
  return peer?.role === "replica" && !peer.expired;
}

/** A stream that was reset on the one side is reset on the other: nobody may take it for an end in order. */
function passEnd(
  upstream: ClientHttp2Stream,
  request: Http2ServerRequest,
  response: Http2ServerResponse,
): void {
  const { stream } = request;
  if (stream.destroyed || upstream.rstCode === http2.constants.NGHTTP2_NO_ERROR) return;
  if (!response.headersSent) {
    refuse(response, new Fault("unavailable", "the source ended the call", { reason: "RELAY_CUT" }));
  } else {
    stream.close(upstream.rstCode ?? http2.constants.NGHTTP2_CANCEL);
  }
}

/** Without what is HTTP/2's own, or only for the gateway. */
function passable(headers: IncomingHttpHeaders): Record<string, string | string[]> {
  const kept: Record<string, string | string[]> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined && !name.startsWith(":") && name !== sourceHeader && name !== peerHeader) {
      kept[name] = value;
    }
  }
  return kept;
}

function refuse(response: Http2ServerResponse, fault: Fault): void {
  if (response.headersSent || response.stream.destroyed) return;
  const { code, message, metadata } = toRpcStatus(fault);
  const answer = {
    ":status": 200,
    "content-type": "application/grpc",
    "grpc-status": String(code),
    "grpc-message": encodeURIComponent(message),
    ...metadata,
  };
  response.stream.respond(answer, { endStream: true });
}

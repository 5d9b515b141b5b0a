/**
 * Carries the channels of a move between two hosts that cannot reach each other: the target calls `Pull` here,
 * and the call goes on over the connection that the source dialled. Bytes pass as they are, in both directions,
 * and each side is read only as fast as the other takes them.
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
import { hostOf, type Caller } from "./control-service.ts";

export const pullPath = "/skerry.agent.v1.MigrationService/Pull";
/** From the target: whom to pull from. To the source: who pulls, as its certificate says. */
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
  /** Throws `unavailable` when the host is not connected here. */
  sessionOf(hostId: string): ClientHttp2Session;
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
      const targetId = hostOf(caller.peer);
      const sourceId = String(request.headers[sourceHeader] ?? "");
      if (!(await this.#options.moves.between(sourceId, targetId))) {
        throw new Fault("denied", "no migration between these hosts is under way", {
          reason: "NO_SUCH_MOVE",
        });
      }
      const session = this.#options.sessionOf(sourceId);
      if (request.stream.destroyed) return;
      this.#count(targetId, request);
      this.#join(request, response, session, targetId);
      this.#options.log.info("relay.opened", { source: sourceId, target: targetId });
    } catch (thrown) {
      const fault = toFault(thrown);
      this.#options.log.warn("relay.refused", { peer: caller.peer?.name, fault });
      refuse(response, fault);
    }
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
    targetId: string,
  ): void {
    const upstream = session.request(
      { ...passable(request.headers), ":method": "POST", ":path": pullPath, [peerHeader]: targetId },
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
      this.#options.log.debug("relay.cut", { target: targetId, error });
    });
    upstream.once("close", () => {
      clearTimeout(timer);
      passEnd(upstream, request, response);
    });
    request.pipe(upstream);
    request.stream.once("close", () => {
      if (!upstream.closed) upstream.close(http2.constants.NGHTTP2_CANCEL);
    });
  }
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

/**
 * Passes a request on to the replica that holds a host's connection. A request is passed on once: the
 * replica that gets it says so if it does not hold the connection either, instead of passing it round.
 */
import { request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import type { Duplex } from "node:stream";
import type { Ctx } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import { trailHeaders } from "#kernel/trace.ts";
import type { RawAnswer } from "./route.ts";

/** Where a host's connection is; throws `unavailable` when no replica holds it. */
export type Locate = (hostId: string) => Promise<{ readonly here: true } | { readonly url: string }>;

const relayedHeader = "x-skerry-relayed";
const connectLimitMs = 5_000;
const hopByHop = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer"];

/** The URL to pass the request on to, or undefined when the host is connected here. */
export async function elsewhere(
  locate: Locate,
  hostId: string,
  request: IncomingMessage,
): Promise<string | undefined> {
  const found = await locate(hostId);
  if ("here" in found) return undefined;
  if (request.headers[relayedHeader] === undefined) return found.url;
  throw new Fault("unavailable", "the host is between two connections", { reason: "HOST_NOT_CONNECTED" });
}

/** Passes a plain request without a body on and answers with what the other replica says. */
export async function relayRequest(ctx: Ctx, url: string, request: IncomingMessage): Promise<RawAnswer> {
  using limit = deadline(connectLimitMs, "reaching the other replica", ctx.signal);
  const outgoing = open(ctx, url, request, withoutHopByHop(request.headers), limit);
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once("response", resolve).once("error", (cause) => reject(unreachable(cause)));
    outgoing.end();
  });
  const { statusCode = 502 } = response;
  return { status: statusCode, headers: plainHeaders(withoutHopByHop(response.headers)), raw: response };
}

/** Passes a WebSocket upgrade on and joins the two sockets. */
export async function relayUpgrade(
  ctx: Ctx,
  url: string,
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  using limit = deadline(connectLimitMs, "reaching the other replica", ctx.signal);
  const outgoing = open(ctx, url, request, request.headers, limit);
  await new Promise<void>((resolve, reject) => {
    outgoing.once("error", (cause) => reject(unreachable(cause)));
    outgoing.once("response", (response) => {
      response.resume();
      const status = String(response.statusCode ?? 0);
      reject(
        new Fault("unavailable", "the replica that holds the host refused the console", {
          reason: "CONSOLE_REFUSED",
          detail: { status },
        }),
      );
    });
    outgoing.once("upgrade", (response, far, farHead) => {
      socket.write(responseHead(response));
      if (farHead.length > 0) socket.write(farHead);
      if (head.length > 0) far.write(head);
      far.on("error", () => socket.destroy());
      far.on("close", () => socket.destroy());
      socket.on("close", () => far.destroy());
      far.pipe(socket);
      socket.pipe(far);
      resolve();
    });
    outgoing.end();
  });
}

/** @param limit for the answer to begin; after that the stream lives as long as the client's */
function open(
  ctx: Ctx,
  url: string,
  request: IncomingMessage,
  headers: IncomingHttpHeaders,
  limit: AbortSignal,
) {
  const target = new URL(request.url ?? "/", url);
  const send = target.protocol === "https:" ? httpsRequest : httpRequest;
  const outgoing = send(target, {
    method: request.method ?? "GET",
    headers: { ...headers, [relayedHeader]: "1", ...trailHeaders(ctx) },
    signal: ctx.signal,
  });
  limit.addEventListener("abort", () => outgoing.destroy(limit.reason as Error), { once: true });
  return outgoing;
}

function withoutHopByHop(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !hopByHop.includes(name)));
}

function plainHeaders(headers: IncomingHttpHeaders): Record<string, string> {
  const plain: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) if (value !== undefined) plain[name] = String(value);
  return plain;
}

function responseHead(response: IncomingMessage): string {
  const lines: string[] = [];
  for (let i = 0; i + 1 < response.rawHeaders.length; i += 2) {
    lines.push(`${response.rawHeaders[i] ?? ""}: ${response.rawHeaders[i + 1] ?? ""}`);
  }
  return ["HTTP/1.1 101 Switching Protocols", ...lines, "", ""].join("\r\n");
}

const unreachable = (cause: Error) =>
  new Fault("unavailable", "the replica that holds the host cannot be reached", {
    reason: "HOST_NOT_CONNECTED",
    cause,
  });

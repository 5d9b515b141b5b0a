import { STATUS_CODES, type IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import type { Answer } from "./route.ts";

/** Browsers cannot set headers on a WebSocket, so the token may come as a subprotocol `bearer.<token>`. */
export function bearerOf(request: IncomingMessage): string | undefined {
  const { authorization } = request.headers;
  if (authorization !== undefined) return authorization;
  const offered = protocolsOf(request).find((protocol) => protocol.startsWith("bearer."));
  return offered === undefined ? undefined : `Bearer ${offered.slice("bearer.".length)}`;
}

export function protocolsOf(request: IncomingMessage): string[] {
  const offered = request.headers["sec-websocket-protocol"] ?? "";
  return offered.split(",").map((protocol) => protocol.trim());
}

/** Answers an upgrade that will not happen as the plain HTTP response it becomes. */
export function refuseUpgrade(socket: Duplex, answer: Answer, requestId: string): void {
  if (!socket.writable) return;
  const body = "raw" in answer ? "" : JSON.stringify(answer.body);
  const headers = {
    ...answer.headers,
    "X-Request-Id": requestId,
    Connection: "close",
    "Content-Length": String(Buffer.byteLength(body)),
  };
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  const status = `HTTP/1.1 ${String(answer.status)} ${STATUS_CODES[answer.status] ?? ""}`;
  socket.end([status, ...head, "", body].join("\r\n"));
}

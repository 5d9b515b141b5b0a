/**
 * Serial consoles over WebSocket: binary frames are the serial line, both ways. A text frame
 * `{"offset": n}` tells how far in the console's log the client is; a client that reconnects with
 * `?offset=n` misses nothing and sees nothing twice.
 */
import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { WebSocketServer, type RawData, type WebSocket } from "ws";
import { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import { Fault, isFault, toFault } from "#kernel/fault.ts";
import type { AgentPort } from "../agents/port.ts";
import type { ResourceApi } from "../app/resource-api.ts";
import { instance } from "../resources/instance/instance.resource.ts";
import { integerParameter } from "./parameters.ts";
import { elsewhere, relayRequest, relayUpgrade, type Locate } from "./relay.ts";
import { defineRoute, type Route } from "./route.ts";
import { protocolsOf } from "./upgrade.ts";

export interface ConsoleOptions {
  readonly resources: ResourceApi;
  readonly agents: Pick<AgentPort, "attachConsole" | "readConsoleLog">;
  readonly locate: Locate;
  /** Origins of browsers, beyond our own, that may open a console. */
  readonly allowedOrigins?: readonly string[];
  readonly pingMs?: number;
}

export const consoleProtocol = "skerry.console.v1";
const path = "/skerry/v1/instances/{id}/console";
const maxFrameBytes = 64 * 1024;
const maxInputBytes = 256 * 1024;
const maxUnsentBytes = 1024 ** 2;
const defaultPingMs = 20_000;
const maxLogBytes = 1024 ** 2;
const defaultLogBytes = 64 * 1024;
const maxOffset = 999_999_999_999;
const lastOutput = -1;

const offsetParameter = integerParameter({
  min: 0,
  max: maxOffset,
  description: "byte of the console's log to begin with; without it, the last 64 KiB",
}).optional();

/** The routes of an instance's console and of its log. */
export function consoleRoutes(options: ConsoleOptions): Route[] {
  const { resources, agents, locate } = options;
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: maxFrameBytes,
    perMessageDeflate: false,
    handleProtocols: (offered) => (offered.has(consoleProtocol) ? consoleProtocol : false),
  });
  return [
    defineRoute({
      method: "GET",
      path,
      operationId: "attachConsole",
      summary: "Join the serial console (WebSocket)",
      tag: "instances",
      role: "operator",
      query: z.strictObject({ offset: offsetParameter }),
      answers: { 101: { description: "a WebSocket" }, 426: { description: "not a WebSocket request" } },
      async handle() {
        throw new Fault("invalid", "a console is joined by WebSocket", { reason: "UPGRADE_REQUIRED" });
      },
      async upgrade({ ctx, params, query, request }, socket, head, joining) {
        checkOrigin(request, options.allowedOrigins ?? []);
        const { id, hostId } = await placed(resources, ctx, params["id"] ?? "");
        const url = await elsewhere(locate, hostId, request);
        await joining();
        if (url !== undefined) return relayUpgrade(ctx, url, request, socket, head);
        const client = await accept(sockets, request, socket, head);
        const offset = BigInt(query.offset ?? lastOutput);
        const session = {
          client,
          agents,
          hostId,
          machineId: id,
          offset,
          pingMs: options.pingMs ?? defaultPingMs,
        };
        void serve(ctx, session);
      },
    }),
    defineRoute({
      method: "GET",
      path: `${path}/log`,
      operationId: "readConsoleLog",
      summary: "Read the console's log",
      tag: "instances",
      role: "viewer",
      query: z.strictObject({
        offset: offsetParameter,
        limit: integerParameter({
          min: 1,
          max: maxLogBytes,
          default: defaultLogBytes,
          description: "most bytes to answer",
        }).optional(),
      }),
      answers: {
        200: {
          description: "the log; X-Console-Offset is the offset after it, X-Console-End the log's end",
          schema: z.string(),
          contentType: "text/plain; charset=utf-8",
        },
      },
      async handle({ ctx, params, query, request }) {
        const { id, hostId } = await placed(resources, ctx, params["id"] ?? "");
        const url = await elsewhere(locate, hostId, request);
        if (url !== undefined) return relayRequest(ctx, url, request);
        const read = {
          machineId: id,
          offset: BigInt(query.offset ?? lastOutput),
          limit: query.limit ?? defaultLogBytes,
        };
        const log = await agents.readConsoleLog(hostId, read, ctx.signal, ctx);
        return {
          status: 200,
          headers: {
            "Content-Type": "text/plain; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Console-Offset": String(log.offset),
            "X-Console-End": String(log.endOffset),
          },
          raw: Buffer.from(log.output).toString("utf8"),
        };
      },
    }),
  ];
}

async function placed(resources: ResourceApi, ctx: Ctx, id: string): Promise<{ id: string; hostId: string }> {
  const found = await resources.get(ctx, instance, id);
  if (found.hostId !== undefined) return { id: found.id, hostId: found.hostId };
  throw new Fault("conflict", "the instance has no host yet", { reason: "NOT_PLACED", retryable: true });
}

/** Browsers send an Origin and cannot lie about it; other pages may not use a user's token here. */
function checkOrigin(request: IncomingMessage, allowed: readonly string[]): void {
  const { origin, host } = request.headers;
  if (origin === undefined || allowed.includes(origin)) return;
  if (URL.canParse(origin) && new URL(origin).host === host) return;
  throw new Fault("denied", "this origin may not open consoles", { reason: "ORIGIN_DENIED" });
}

function accept(
  sockets: WebSocketServer,
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<WebSocket> {
  if (
    request.headers["sec-websocket-protocol"] !== undefined &&
    !protocolsOf(request).includes(consoleProtocol)
  ) {
    throw new Fault("invalid", `the subprotocol is ${consoleProtocol}`, { reason: "SUBPROTOCOL_UNKNOWN" });
  }
  return new Promise((resolve) => sockets.handleUpgrade(request, socket, head, resolve));
}

interface Session {
  readonly client: WebSocket;
  readonly agents: Pick<AgentPort, "attachConsole">;
  readonly hostId: string;
  readonly machineId: string;
  readonly offset: bigint;
  readonly pingMs: number;
}

/** Joins client and machine until either ends; always closes the client with a code that says why. */
async function serve(ctx: Ctx, session: Session): Promise<void> {
  const { client, agents, hostId, machineId, offset } = session;
  const left = new AbortController();
  const signal = AbortSignal.any([ctx.signal, left.signal]);
  const input = inputOf(client, signal);
  client.once("close", () =>
    left.abort(new Fault("unavailable", "the client went away", { reason: "CLIENT_GONE" })),
  );
  client.on("error", (error) => ctx.log.debug("console.client", { error }));
  using _heartbeat = keepAlive(client, session.pingMs);
  try {
    let position: bigint | undefined;
    for await (const chunk of agents.attachConsole(hostId, { machineId, offset }, input, signal, ctx)) {
      const start = chunk.offset - BigInt(chunk.output.length);
      if (position !== start) await send(client, JSON.stringify({ offset: Number(start) }));
      await send(client, chunk.output);
      await send(client, JSON.stringify({ offset: Number(chunk.offset) }));
      position = chunk.offset;
    }
    client.close(1000, "the console ended");
  } catch (thrown) {
    const fault = toFault(thrown);
    if (fault.code === "internal") ctx.log.error("console.failed", { machineId, fault });
    client.close(isFault(fault, "internal") ? 1011 : 1013, fault.reason.slice(0, 100));
  }
  ctx.log.info("console.closed", { machineId, hostId });
}

/** Sends one frame; when too much is unsent, waits until this one has gone out. */
function send(client: WebSocket, data: string | Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    const waits = client.bufferedAmount > maxUnsentBytes;
    client.send(data, (error) => {
      if (error)
        reject(new Fault("unavailable", "the client went away", { reason: "CLIENT_GONE", cause: error }));
      else resolve();
    });
    if (!waits) resolve();
  });
}

/** What the client types, as an iterable; reading from the socket pauses while too much is unread. */
function inputOf(client: WebSocket, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const frames: Uint8Array[] = [];
  let bytes = 0;
  let wake: () => void = () => undefined;
  client.on("message", (data: RawData, isBinary) => {
    if (!isBinary) return; // text frames are reserved for control
    const frame = Buffer.isBuffer(data)
      ? data
      : Buffer.concat(Array.isArray(data) ? data : [Buffer.from(data)]);
    frames.push(frame);
    bytes += frame.length;
    if (bytes > maxInputBytes) client.pause();
    wake();
  });
  signal.addEventListener("abort", () => wake(), { once: true });
  // The listeners are in place before anyone reads: what is typed early is not lost.
  return (async function* () {
    while (!signal.aborted) {
      const frame = frames.shift();
      if (!frame) {
        await new Promise<void>((resolve) => (wake = resolve));
        continue;
      }
      bytes -= frame.length;
      if (client.isPaused && bytes <= maxInputBytes / 2) client.resume();
      yield frame;
    }
  })();
}

/** Pings; a client that misses a whole round is gone. */
function keepAlive(client: WebSocket, pingMs: number): Disposable {
  let alive = true;
  client.on("pong", () => (alive = true));
  const timer = setInterval(() => {
    if (!alive) return client.terminate();
    alive = false;
    client.ping();
  }, pingMs);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

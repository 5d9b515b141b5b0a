/**
 * Sends one GET again and again over keep-alive connections, each with one request at a time. Plain sockets
 * and prepared bytes: the client must cost less than the servers, which are processes of their own.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { cpuSeconds } from "./process-usage.ts";
import { median } from "./statistics.ts";

/** A server under test. */
export interface Target {
  readonly url: string;
  readonly pid: number;
}

export interface LoadOptions {
  readonly authorization: string;
  readonly connections: number;
  readonly seconds: number;
}

export interface Rate {
  readonly perSecond: number;
  /** Of one request, as the client sees it. */
  readonly medianMs: number;
  /** The server's own CPU time for one request: says more than the rate on a machine that has other work. */
  readonly cpuMicros: number;
}

const headEnd = "\r\n\r\n";

/** Keeps all connections busy for so long. Throws when an answer is not a 200. */
export async function measureRate(
  { url, pid }: Target,
  { authorization, connections, seconds }: LoadOptions,
): Promise<Rate> {
  const { hostname, port, host, pathname, search } = new URL(url);
  const lines = [`GET ${pathname}${search} HTTP/1.1`, `Host: ${host}`, `Authorization: ${authorization}`];
  const request = Buffer.from(lines.join("\r\n") + headEnd);
  const sockets = Array.from({ length: connections }, () => connect(Number(port), hostname).setNoDelay());
  try {
    await Promise.all(sockets.map((socket) => once(socket, "connect")));
    const cpuBefore = await cpuSeconds(pid);
    const started = performance.now();
    const answered = await Promise.all(
      sockets.map((socket) => ask(socket, request, started + seconds * 1000)),
    );
    const durations = answered.flat();
    return {
      perSecond: (durations.length * 1000) / (performance.now() - started),
      medianMs: median(durations),
      cpuMicros: (((await cpuSeconds(pid)) - cpuBefore) * 1e6) / durations.length,
    };
  } finally {
    for (const socket of sockets) socket.destroy();
  }
}

export const describeRate = ({ perSecond, cpuMicros }: Rate): string =>
  `${perSecond.toFixed(0)}/s at ${cpuMicros.toFixed(0)} us of CPU`;

/** Length of the answer at the buffer's beginning; undefined while its head is not complete. */
function answerLength(buffer: Buffer): number | undefined {
  const end = buffer.indexOf(headEnd);
  if (end < 0) return undefined;
  const head = buffer.toString("latin1", 0, end);
  if (!head.startsWith("HTTP/1.1 200 ")) throw new Error(`the server answered: ${head}`);
  return end + headEnd.length + Number(/^content-length: *(\d+)/im.exec(head)?.[1]);
}

/** Asks on one connection until `until`; gives how long each answer took, in milliseconds. */
function ask(socket: Socket, request: Buffer, until: number): Promise<number[]> {
  return new Promise((resolve, reject) => {
    const durations: number[] = [];
    let chunks: Buffer[] = [];
    let received = 0;
    let expected: number | undefined;
    let askedAt = performance.now();
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("the server closed the connection")));
    socket.on("data", (chunk) => {
      chunks.push(chunk);
      received += chunk.length;
      try {
        expected ??= answerLength(chunks.length === 1 ? chunk : Buffer.concat(chunks));
      } catch (error) {
        reject(error instanceof Error ? error : new Error(String(error)));
        return;
      }
      if (expected === undefined || received < expected) return;
      [chunks, received, expected] = [[], 0, undefined];
      const now = performance.now();
      durations.push(now - askedAt);
      askedAt = now;
      if (now < until) socket.write(request);
      else resolve(durations);
    });
    socket.write(request);
  });
}

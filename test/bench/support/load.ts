/**
 * Sends one GET again and again over keep-alive connections, each with one request at a time, and prints
 * how many were answered. Plain sockets and prepared bytes: the client must cost less than the servers.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { readOptions } from "./programs.ts";

export interface LoadOptions {
  readonly url: string;
  readonly authorization: string;
  readonly connections: number;
  readonly seconds: number;
}

export interface LoadResult {
  readonly requests: number;
  readonly seconds: number;
}

const headEnd = "\r\n\r\n";

/** Length of the answer at the buffer's beginning; undefined while its head is not complete. */
function answerLength(buffer: Buffer): number | undefined {
  const end = buffer.indexOf(headEnd);
  if (end < 0) return undefined;
  const head = buffer.toString("latin1", 0, end);
  if (!head.startsWith("HTTP/1.1 200 ")) throw new Error(`the server answered: ${head}`);
  return end + headEnd.length + Number(/^content-length: *(\d+)/im.exec(head)?.[1]);
}

/** Asks on one connection until `until`; gives the number of answers. */
function ask(socket: Socket, request: Buffer, until: number): Promise<number> {
  return new Promise((resolve, reject) => {
    let answers = 0;
    let pending: Buffer = Buffer.alloc(0);
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("the server closed the connection")));
    socket.on("data", (chunk) => {
      pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
      try {
        const length = answerLength(pending);
        if (length === undefined || pending.length < length) return;
        pending = pending.subarray(length);
      } catch (error) {
        reject(error instanceof Error ? error : new Error(String(error)));
        return;
      }
      answers++;
      if (performance.now() < until) socket.write(request);
      else resolve(answers);
    });
    socket.write(request);
  });
}

const { url, authorization, connections, seconds } = readOptions<LoadOptions>();
const { hostname, port, host, pathname } = new URL(url);
const lines = [`GET ${pathname} HTTP/1.1`, `Host: ${host}`, `Authorization: ${authorization}`];
const request = Buffer.from(lines.join("\r\n") + headEnd);
const sockets = Array.from({ length: connections }, () => connect(Number(port), hostname).setNoDelay());
await Promise.all(sockets.map((socket) => once(socket, "connect")));
const started = performance.now();
const answers = await Promise.all(sockets.map((socket) => ask(socket, request, started + seconds * 1000)));
const result: LoadResult = {
  requests: answers.reduce((sum, each) => sum + each, 0),
  seconds: (performance.now() - started) / 1000,
};
for (const socket of sockets) socket.destroy();
process.stdout.write(`${JSON.stringify(result)}\n`);

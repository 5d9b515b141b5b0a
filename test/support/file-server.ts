import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Teardown } from "./postgres.ts";

export type Answer = (request: IncomingMessage, response: ServerResponse, nth: number) => void;

/** A web server on loopback whose paths answer as a test scripts them; keeps what it was asked. */
export interface FileServer {
  readonly url: (path: string) => string;
  readonly asked: (path: string) => readonly IncomingMessage[];
}

export async function startFileServer(
  t: Teardown,
  answers: Readonly<Record<string, Answer>>,
): Promise<FileServer> {
  const asked = new Map<string, IncomingMessage[]>();
  const server = createServer((request, response) => {
    const path = request.url ?? "";
    const before = asked.get(path) ?? [];
    asked.set(path, [...before, request]);
    const answer = answers[path];
    if (answer) answer(request, response, before.length);
    else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { url: (path) => `http://127.0.0.1:${String(port)}${path}`, asked: (path) => asked.get(path) ?? [] };
}

/** Serves content with ranges, as a good server does; `until` cuts the connection after so many bytes. */
export function serve(content: Uint8Array, options: { etag?: string; until?: number } = {}): Answer {
  return (request, response) => {
    const { etag = '"v1"', until } = options;
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    const condition = request.headers["if-range"];
    const from = range && (condition === undefined || condition === etag) ? Number(range[1]) : 0;
    const to =
      from > 0 || range
        ? Math.min(Number(range?.[2] || content.length - 1), content.length - 1)
        : content.length - 1;
    const honoured = range && (condition === undefined || condition === etag);
    const body = content.subarray(from, (honoured ? to : content.length - 1) + 1);
    const headers: Record<string, string | number> = { etag, "content-length": body.length };
    if (honoured)
      headers["content-range"] =
        `bytes ${String(from)}-${String(from + body.length - 1)}/${String(content.length)}`;
    response.writeHead(honoured ? 206 : 200, headers);
    if (until === undefined) response.end(body);
    else response.write(body.subarray(0, until), () => response.destroy());
  };
}

/**
 * Lets pulls of a move past the RPC framework, which would copy each of their bytes several times. They are plain
 * HTTP/2 streams to a handler of their own; everything else is served as before.
 */
import type { Http2SecureServer, Http2Server, IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import { isPull } from "../migration/pull-handler.ts";

type StreamListener = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, ...rest: unknown[]) => void;

/** Call once, after the server has been given its request handler. */
export function routePulls(
  server: Http2Server | Http2SecureServer,
  pull: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void,
): void {
  // The request handler hangs on this event too, and would answer the stream as well.
  const others = server.listeners("stream") as StreamListener[];
  server.removeAllListeners("stream");
  const route: StreamListener = (stream, headers, ...rest) => {
    if (isPull(headers)) pull(stream, headers);
    else for (const other of others) other.call(server, stream, headers, ...rest);
  };
  server.on("stream", route);
}

/** Ends a stream that its caller may not have, in the words of gRPC: PERMISSION_DENIED. */
export function refusePull(stream: ServerHttp2Stream): void {
  stream.on("error", () => undefined); // the caller has hung up
  stream.respond(
    {
      ":status": 200,
      "content-type": "application/grpc+proto",
      "grpc-status": "7",
      "grpc-message": "hosts only",
    },
    { endStream: true },
  );
}

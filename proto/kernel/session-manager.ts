import type { ClientHttp2Session, ClientHttp2Stream, OutgoingHttpHeaders } from "node:http2";

type RequestOptions = NonNullable<Parameters<ClientHttp2Session["request"]>[1]>;

/** What the RPC library asks of whoever keeps its connections (by shape: the kernel does not know it). */
export interface SessionManager {
  readonly authority: string;
  request(
    method: string,
    path: string,
    headers: OutgoingHttpHeaders,
    options: Omit<RequestOptions, "signal">,
  ): Promise<ClientHttp2Stream>;
  notifyResponseByteRead(stream: ClientHttp2Stream): void;
}

/**
 * Sends calls over a session that somebody else opens, watches and replaces.
 * @param session gives the present one, or throws a fault that the caller gets
 */
export function manageSession(authority: string, session: () => ClientHttp2Session): SessionManager {
  return {
    authority,
    request: async (method, path, headers, options) =>
      session().request({ ...headers, ":method": method, ":path": path }, options),
    notifyResponseByteRead: () => undefined, // keep-alive counts the bytes of the socket
  };
}

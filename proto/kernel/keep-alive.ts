import { constants, type Http2Session } from "node:http2";

const quietTicks = 3;

/**
 * Notices a peer that is gone without having closed the connection: destroys a session on which nothing
 * was received for `limitMs`. Pings when it is quiet; any byte counts as a sign of life, because on a slow
 * line the answer to a ping may queue behind a large transfer. Counts ticks and not time, so that a
 * process that was suspended does not blame its peer.
 */
export function keepAlive(session: Http2Session, limitMs: number): void {
  let seenBytes = -1;
  let quiet = 0;
  const timer = setInterval(
    () => {
      if (session.destroyed) return;
      const bytes = session.socket.bytesRead;
      quiet = bytes === seenBytes ? quiet + 1 : 0;
      seenBytes = bytes;
      if (quiet >= quietTicks) abortSession(session, `nothing was received for ${String(limitMs)} ms`);
      else if (quiet > 0) session.ping(() => undefined);
    },
    limitMs / (quietTicks + 1),
  );
  timer.unref();
  session.once("close", () => {
    clearInterval(timer);
  });
}

/** Ends a session at once. With an error, because without one the calls under way would wait for their deadlines. */
export function abortSession(session: Http2Session, why: string): void {
  session.destroy(new Error(why), constants.NGHTTP2_CANCEL);
}

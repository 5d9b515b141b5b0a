import { constants, type Http2Session } from "node:http2";
import type { Fault } from "#kernel/fault.ts";
import { abortSession } from "#kernel/keep-alive.ts";

/** How long an agent may take to hang up by itself after it was told why. */
const graceMs = 1000;

/**
 * Ends a session and says why, in the GOAWAY frame's debug data as `{"code","reason","message"}`: a
 * refused agent has no other way to learn it, since on its session it is the control plane that calls.
 */
export function dismiss(session: Http2Session, why: Fault): void {
  if (session.destroyed) return;
  const { code, reason, message } = why;
  session.goaway(constants.NGHTTP2_NO_ERROR, 0, Buffer.from(JSON.stringify({ code, reason, message })));
  const timer = setTimeout(() => {
    abortSession(session, message);
  }, graceMs);
  session.once("close", () => {
    clearTimeout(timer);
  });
}

/**
 * W3C trace context: whoever calls us may say which trace the call belongs to; our logs name it, and whom we call in turn is
 * told the same. We keep no spans of our own.
 */
import { randomBytes } from "node:crypto";

export interface Trace {
  readonly traceId: string;
  /** Bit 0: the caller records it. */
  readonly flags: string;
}

export const traceHeader = "traceparent";
export const requestIdHeader = "x-request-id";
/** What a caller may name a request: it goes into every log line about it. */
export const requestIdPattern = /^[\w.:-]{1,64}$/;

/** Later versions may say more after the flags. */
const pattern = /^(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?$/;

/** Undefined for what is no traceparent: a caller's mistake is not ours to refuse. */
export function parseTraceparent(text: unknown): Trace | undefined {
  const found = typeof text === "string" && text.length <= 512 ? pattern.exec(text) : null;
  const [, version, traceId, flags, more] = found ?? [];
  if (traceId === undefined || flags === undefined || (version === "00" && more !== undefined))
    return undefined;
  return { traceId, flags };
}

/** For a call that is made on behalf of it. */
export function childTraceparent({ traceId, flags }: Trace): string {
  return `00-${traceId}-${randomBytes(8).toString("hex")}-${flags}`;
}

/** On whose behalf a call is made, as headers. */
export function trailHeaders({
  requestId,
  trace,
}: {
  readonly requestId: string;
  readonly trace?: Trace | undefined;
}) {
  return { [requestIdHeader]: requestId, ...(trace && { [traceHeader]: childTraceparent(trace) }) };
}

/**
 * How a Fault travels over Connect and gRPC: a status code for clients that know only those, and two
 * metadata keys that bring it back whole on our own. Knows no RPC library: each side adapts it to its own.
 */
import { Fault, type FaultCode, type Json } from "./fault.ts";

export const reasonKey = "skerry-reason";
export const detailKey = "skerry-detail";

/** Status codes as numbered by gRPC; Connect has the same. */
const statusOf: Record<FaultCode, number> = {
  invalid: 3,
  notFound: 5,
  denied: 7,
  exhausted: 8,
  conflict: 9,
  stale: 10,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
};
const faultCodeOf = new Map(Object.entries(statusOf).map(([code, status]) => [status, code as FaultCode]));

const deadlineExceeded = 4;
/** Cancelled, unknown, aborted, internal, unavailable: what RPC libraries make of a broken connection. */
const cutOffCodes = new Set([1, 2, 10, 13, 14]);

export interface RpcStatus {
  readonly code: number;
  readonly message: string;
  readonly metadata: { get(key: string): string | null };
}

export function toRpcStatus(fault: Fault): {
  code: number;
  message: string;
  metadata: Record<string, string>;
} {
  // Metadata is ASCII on the wire, so the detail's other characters are escaped as JSON can.
  const detail = JSON.stringify(fault.detail).replace(
    /[^ -~]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return {
    code: statusOf[fault.code],
    message: fault.message,
    metadata: { [reasonKey]: fault.reason, [detailKey]: detail },
  };
}

/**
 * The fault that the peer threw. A status without a reason does not come from our code there but from the
 * transport in between: the call was cut off or the peer does not know the method.
 */
export function fromRpcStatus(status: RpcStatus, cutOffReason: string, cause: unknown): Fault {
  const code = faultCodeOf.get(status.code);
  const reason = status.metadata.get(reasonKey);
  if (code && reason !== null) {
    return new Fault(code, status.message, {
      reason,
      detail: readDetail(status.metadata.get(detailKey)),
      cause,
    });
  }
  if (status.code === deadlineExceeded) {
    return new Fault("unavailable", "the call took too long", { reason: "TIMEOUT", cause });
  }
  if (cutOffCodes.has(status.code)) {
    return new Fault("unavailable", "the connection was lost during the call", {
      reason: cutOffReason,
      cause,
    });
  }
  return new Fault(code ?? "internal", status.message, { cause });
}

function readDetail(text: string | null): Json {
  try {
    return JSON.parse(text ?? "{}") as Json;
  } catch {
    return {}; // a proxy on the way cut the header; the reason is what programs branch on
  }
}

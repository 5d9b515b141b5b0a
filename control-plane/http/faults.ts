/**
 * Faults as HTTP says them. The status follows the code, except for the few reasons that HTTP has a
 * word of its own for. Used-up capacity is 409 like every other state that forbids a request: 507
 * speaks of the server's own storage. 429 is what is the caller's own: the rate, which `Retry-After` goes
 * with, and the quota, where waiting does not help.
 */
import { z } from "zod";
import { Fault, type FaultCode, type Json } from "#kernel/fault.ts";

const statusOfCode: Record<FaultCode, number> = {
  invalid: 400,
  unauthenticated: 401,
  denied: 403,
  notFound: 404,
  conflict: 409,
  exhausted: 409,
  stale: 409,
  unavailable: 503,
  internal: 500,
};

const statusOfReason: Readonly<Record<string, number>> = {
  METHOD_NOT_ALLOWED: 405,
  PRECONDITION_FAILED: 412,
  BODY_TOO_LARGE: 413,
  UNSUPPORTED_MEDIA_TYPE: 415,
  UPGRADE_REQUIRED: 426,
  QUOTA_EXCEEDED: 429,
  RATE_LIMITED: 429,
};

const defaultRetryAfterSeconds = 2;

/** The HTTP status of a fault. */
export function statusOf(fault: Fault): number {
  return statusOfReason[fault.reason] ?? statusOfCode[fault.code];
}

/** Headers that go with a fault: when to come back, how to say who one is, which methods there are. */
export function headersOf(fault: Fault): Record<string, string> {
  const headers: Record<string, string> = { "Cache-Control": "no-store" };
  if (fault.code === "unavailable" || fault.reason === "RATE_LIMITED")
    headers["Retry-After"] = String(retryAfter(fault));
  if (fault.code === "unauthenticated") headers["WWW-Authenticate"] = 'Bearer realm="skerry"';
  const allow = detailOf(fault)["allow"];
  if (fault.reason === "METHOD_NOT_ALLOWED" && Array.isArray(allow)) headers["Allow"] = allow.join(", ");
  if (fault.reason === "UPGRADE_REQUIRED") headers["Upgrade"] = "websocket";
  return headers;
}

function retryAfter(fault: Fault): number {
  const asked = detailOf(fault)["retry_after_seconds"];
  return typeof asked === "number" ? Math.ceil(asked) : defaultRetryAfterSeconds;
}

/** The fault's detail as an object. */
export function detailOf(fault: Fault): Readonly<Record<string, Json>> {
  const { detail } = fault;
  if (typeof detail !== "object" || detail === null) return {};
  return Array.isArray(detail) ? { items: detail } : (detail as Readonly<Record<string, Json>>);
}

/** What may be said in public: of our own bugs nothing but the id under which they are logged. */
export function publicFault(fault: Fault, requestId: string): Fault {
  if (fault.code !== "internal") return fault;
  return new Fault("internal", "an unexpected error occurred", {
    reason: "INTERNAL_ERROR",
    detail: { request_id: requestId },
    cause: fault,
  });
}

export const problemType = "application/problem+json; charset=utf-8";

export const problemSchema = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string().describe("class of the fault, such as notFound"),
  reason: z.string().describe("upper-case word to branch on"),
  details: z.record(z.string(), z.unknown()),
  retryable: z.boolean(),
  request_id: z.string(),
});

const titles: Record<FaultCode, string> = {
  invalid: "The request is not valid",
  unauthenticated: "Who is asking is not known",
  denied: "Not allowed",
  notFound: "Not found",
  conflict: "The present state does not allow it",
  exhausted: "Used up",
  stale: "Changed meanwhile",
  unavailable: "Not available now",
  internal: "Internal error",
};

/** A fault as RFC 9457 has it. */
export function toProblem(fault: Fault, requestId: string): Json {
  return {
    type: "about:blank",
    title: titles[fault.code],
    status: statusOf(fault),
    detail: fault.message,
    code: fault.code,
    reason: fault.reason,
    details: detailOf(fault),
    retryable: fault.retryable,
    request_id: requestId,
  };
}

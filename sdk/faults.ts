/**
 * Answers and network failures as Faults. Whatever stands between client and cloud (a proxy, a load
 * balancer) may answer in its own way, so a body that is not ours is judged by its status alone.
 */
import { Fault, faultCodes, toFault, type FaultCode, type Json } from "#kernel/fault.ts";

const codeByStatus: Readonly<Record<number, FaultCode>> = {
  401: "unauthenticated",
  403: "denied",
  404: "notFound",
  405: "notFound",
  409: "conflict",
  410: "notFound",
  412: "stale",
  429: "exhausted",
  502: "unavailable",
  503: "unavailable",
  504: "unavailable",
  507: "exhausted",
};

/** Statuses that say "not now": the request was not carried out and may be repeated. */
export const retryStatuses: ReadonlySet<number> = new Set([429, 502, 503, 504]);

/** The fault that an answer other than 2xx means. Reads its body. */
export async function toResponseFault(response: Response): Promise<Fault> {
  const problem = parseObject(await response.text());
  const fallback = codeByStatus[response.status] ?? (response.status < 500 ? "invalid" : "internal");
  const told = faultCodes.find((each) => each === problem["code"]);
  const requestId = textOf(problem["request_id"]) ?? response.headers.get("x-request-id") ?? undefined;
  const details = isObject(problem["details"]) ? (problem["details"] as { [key: string]: Json }) : {};
  const message =
    textOf(problem["detail"]) ?? textOf(problem["title"]) ?? `the server answered ${response.status}`;
  return new Fault(told ?? fallback, message, {
    ...(textOf(problem["reason"]) && { reason: textOf(problem["reason"]) as string }),
    detail: { ...details, status: response.status, ...(requestId && { request_id: requestId }) },
    retryable:
      typeof problem["retryable"] === "boolean" ? problem["retryable"] : retryStatuses.has(response.status),
    cause: response,
  });
}

/** The fault that a failed exchange means: cancelled, out of time, or no connection. */
export function toNetworkFault(thrown: unknown, url: string, signal: AbortSignal): Fault {
  if (signal.aborted) return cancelled(signal);
  if (thrown instanceof Fault) return thrown;
  const why = causeOf(thrown);
  return new Fault("unavailable", `cannot reach ${new URL(url).origin}${why && ` (${why})`}`, {
    reason: "CONNECTION_FAILED",
    cause: thrown,
  });
}

/** Why a signal aborted, as a Fault. */
export function cancelled(signal: AbortSignal): Fault {
  const reason: unknown = signal.reason;
  if (reason instanceof Fault) return reason;
  if (reason instanceof Error && reason.name === "TimeoutError") {
    return new Fault("unavailable", "the time limit was reached", { reason: "TIMEOUT", cause: reason });
  }
  return new Fault("unavailable", "cancelled", { reason: "CANCELLED", retryable: false, cause: reason });
}

/** True for a fault that says that time ran out. */
export const isTimeout = (thrown: unknown): boolean => toFault(thrown).reason === "TIMEOUT";

/** How long an answer asks to be left alone, in milliseconds; 0 when it does not say. */
export function retryAfterMs(response: Response, nowMs: number): number {
  const header = response.headers.get("retry-after");
  if (header === null) return 0;
  const seconds = Number(header);
  const ms = Number.isNaN(seconds) ? Date.parse(header) - nowMs : seconds * 1000;
  return Number.isNaN(ms) ? 0 : Math.max(0, ms);
}

/** fetch() hides the reason one or two levels down. */
function causeOf(thrown: unknown): string {
  for (let error = thrown, depth = 0; error instanceof Error && depth < 4; error = error.cause, depth++) {
    if ("code" in error && typeof error.code === "string") return error.code;
  }
  return "";
}

function parseObject(text: string): Readonly<Record<string, unknown>> {
  try {
    const parsed: unknown = JSON.parse(text);
    return isObject(parsed) ? parsed : {};
  } catch {
    return {}; // a proxy's page: the status says all there is to know
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const textOf = (value: unknown): string | undefined =>
  typeof value === "string" && value !== "" ? value : undefined;

/**
 * The one error type that crosses module borders. `code` and `reason` are for
 * programs, `message` and `detail` are public, `cause` is for operators only:
 * host names, paths and SQL belong there and never reach a user.
 */

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

export const faultCodes = [
  "invalid",
  "notFound",
  "conflict",
  "exhausted",
  "unauthenticated",
  "denied",
  "unavailable",
  "stale",
  "internal",
] as const;

/**
 * - `invalid` the request is wrong and will stay wrong
 * - `notFound` there is no such thing, or not for this caller
 * - `conflict` the thing's present state does not allow it
 * - `exhausted` a capacity or quota is used up
 * - `unauthenticated` who is asking is not known
 * - `denied` who is asking may not
 * - `unavailable` a part that is needed cannot be reached now
 * - `stale` a newer writer has taken over; drop the work, the newer one does it
 * - `internal` our bug
 */
export type FaultCode = (typeof faultCodes)[number];

export interface FaultOptions {
  /** Upper-case word that programs branch on, such as `IMAGE_CORRUPT`. */
  readonly reason?: string;
  readonly detail?: Json;
  /** True when the same request may pass later. Default: only for `unavailable`. */
  readonly retryable?: boolean;
  readonly cause?: unknown;
}

export class Fault extends Error {
  readonly code: FaultCode;
  readonly reason: string;
  readonly detail: Json;
  readonly retryable: boolean;

  constructor(code: FaultCode, message: string, options: FaultOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "Fault";
    this.code = code;
    this.reason = options.reason ?? defaultReason[code];
    this.detail = options.detail ?? {};
    this.retryable = options.retryable ?? code === "unavailable";
  }
}

const defaultReason: Record<FaultCode, string> = {
  invalid: "INVALID",
  notFound: "NOT_FOUND",
  conflict: "CONFLICT",
  exhausted: "EXHAUSTED",
  unauthenticated: "UNAUTHENTICATED",
  denied: "DENIED",
  unavailable: "UNAVAILABLE",
  stale: "STALE",
  internal: "INTERNAL",
};

/** Turns anything thrown into a Fault; what is not one already becomes `internal` and keeps its cause. */
export function toFault(thrown: unknown): Fault {
  if (thrown instanceof Fault) return thrown;
  return new Fault("internal", "an unexpected error occurred", { cause: thrown });
}

/** True for a Fault of one of the given codes. */
export function isFault(thrown: unknown, ...codes: readonly FaultCode[]): thrown is Fault {
  return thrown instanceof Fault && (codes.length === 0 || codes.includes(thrown.code));
}

/** Marks a place that the compiler knows cannot be reached. */
export function assertNever(value: never): never {
  throw new Fault("internal", `unhandled case ${JSON.stringify(value)}`);
}

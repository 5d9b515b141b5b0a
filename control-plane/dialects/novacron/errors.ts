import { z } from "zod";
import type { Fault, Json } from "#kernel/fault.ts";
import { detailOf } from "../../http/faults.ts";
import type { ErrorContext } from "../../http/route.ts";

export const errorSchema = z.object({
  error: z.object({
    code: z.string(),
    message: z.string(),
    details: z.record(z.string(), z.unknown()),
    timestamp: z.iso.datetime(),
  }),
});

/** Where the core's word is a general one, the dialect's; reasons that say more pass through. */
const codes: Readonly<Record<string, string>> = {
  INVALID: "VALIDATION_ERROR",
  BODY_MALFORMED: "VALIDATION_ERROR",
  UNAUTHENTICATED: "UNAUTHORIZED",
  CREDENTIALS_MISSING: "UNAUTHORIZED",
  CREDENTIALS_MALFORMED: "UNAUTHORIZED",
  DENIED: "FORBIDDEN",
  ROLE_TOO_LOW: "FORBIDDEN",
  UNAVAILABLE: "SERVICE_UNAVAILABLE",
  EXHAUSTED: "RESOURCE_EXHAUSTED",
  REQUEST_UNDER_WAY: "MIGRATION_IN_PROGRESS",
};

/** A fault in NovaCron's words. */
export function encodeFault(fault: Fault, { now }: ErrorContext): Json {
  return {
    error: {
      code: fault.code === "notFound" ? "RESOURCE_NOT_FOUND" : (codes[fault.reason] ?? fault.reason),
      message: fault.message,
      details: detailOf(fault),
      timestamp: new Date(now).toISOString(),
    },
  };
}

/** The error codes of a dialect: few words by class of fault, and reasons that have a word of their own. */
import type { Fault, FaultCode } from "#kernel/fault.ts";

/** Reasons that every dialect tells as they are: they stand for a status, or for a rule that all share. */
const shared = new Set([
  "QUOTA_EXCEEDED",
  "RATE_LIMITED",
  "MFA_REQUIRED",
  "IDEMPOTENCY_KEY_REUSED",
  "PRECONDITION_FAILED",
  "METHOD_NOT_ALLOWED",
  "BODY_TOO_LARGE",
  "UNSUPPORTED_MEDIA_TYPE",
  "UPGRADE_REQUIRED",
]);

/** The code that a fault has in a dialect whose codes by class are `table`. */
export function codeOf({ code, reason }: Fault, table: Readonly<Record<FaultCode, string>>): string {
  return shared.has(reason) ? reason : table[code];
}

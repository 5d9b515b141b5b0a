import { z } from "zod";
import type { Fault, Json } from "#kernel/fault.ts";
import { detailOf } from "../../http/faults.ts";
import type { ErrorContext } from "../../http/route.ts";
import { toVmField } from "./vm.ts";

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
};

/** A fault in NovaCron's words. */
export function encodeFault(fault: Fault, { now, params }: ErrorContext): Json {
  const missing =
    fault.code === "notFound" && fault.reason !== "VERB_NOT_FOUND" ? params["vm_id"] : undefined;
  return {
    error: {
      code: fault.code === "notFound" ? "RESOURCE_NOT_FOUND" : (codes[fault.reason] ?? fault.reason),
      message: missing === undefined ? toMessage(fault) : `VM with ID ${missing.slice(0, 80)} not found`,
      details: missing === undefined ? toDetails(fault) : { vm_id: missing.slice(0, 80) },
      timestamp: new Date(now).toISOString(),
    },
  };
}

/** Messages about one field begin with its name. */
function toMessage(fault: Fault): string {
  const [, field, rest] = /^(spec\.[\w.]+|labels[^:]*)(: .*)$/s.exec(fault.message) ?? [];
  return field && rest ? `${toVmField(field)}${rest}` : fault.message;
}

/** The fault's detail, with the names that this API gives the fields. */
function toDetails(fault: Fault): Json {
  const detail = detailOf(fault);
  const { fields, field } = detail;
  return {
    ...detail,
    ...(typeof field === "string" && { field: toVmField(field) }),
    ...(Array.isArray(fields) && { fields: fields.map(renameField) }),
  };
}

function renameField(entry: Json): Json {
  if (typeof entry !== "object" || entry === null || !("field" in entry)) return entry;
  return typeof entry.field === "string" ? { ...entry, field: toVmField(entry.field) } : entry;
}

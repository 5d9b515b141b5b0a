import { z } from "zod";
import { Fault, type Json } from "#kernel/fault.ts";
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
  REQUEST_UNDER_WAY: "MIGRATION_IN_PROGRESS",
};

/** What a path's last id is one of. */
const nouns = { migration_id: "Migration", user_id: "User", vm_id: "VM" } as const;

/** A fault in NovaCron's words. */
export function encodeFault(fault: Fault, { now, params }: ErrorContext): Json {
  const missing = fault.code === "notFound" ? missingOf(fault, params) : undefined;
  const { message, details } = missing ?? { message: toMessage(fault), details: toDetails(fault) };
  return {
    error: {
      code: fault.code === "notFound" ? "RESOURCE_NOT_FOUND" : (codes[fault.reason] ?? fault.reason),
      message,
      details,
      timestamp: new Date(now).toISOString(),
    },
  };
}

/** The words for an id of the path that leads nowhere. */
function missingOf({ reason }: Fault, params: ErrorContext["params"]) {
  if (reason === "VERB_NOT_FOUND") return undefined;
  for (const name of ["migration_id", "user_id", "vm_id"] as const) {
    const id = params[name]?.slice(0, 80);
    if (id !== undefined)
      return { message: `${nouns[name]} with ID ${id} not found`, details: { [name]: id } };
  }
  return undefined;
}

/** The fault with its fields called by this API's names, where `rename` has them. */
export function withFieldNames(fault: Fault, rename: (field: string) => string): Fault {
  const { fields, ...detail } = detailOf(fault);
  if (!Array.isArray(fields)) return fault;
  const [, field, rest] = /^(spec\.[\w.]+)(: .*)$/s.exec(fault.message) ?? [];
  const message = field && rest ? `${rename(field)}${rest}` : fault.message;
  const renamed = fields.map((entry: Json) => renameField(entry, rename));
  const { code, reason, cause } = fault;
  return new Fault(code, message, { reason, cause, detail: { ...detail, fields: renamed } });
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
    ...(Array.isArray(fields) && { fields: fields.map((entry: Json) => renameField(entry, toVmField)) }),
  };
}

function renameField(entry: Json, rename: (field: string) => string): Json {
  if (typeof entry !== "object" || entry === null || !("field" in entry)) return entry;
  return typeof entry.field === "string" ? { ...entry, field: rename(entry.field) } : entry;
}

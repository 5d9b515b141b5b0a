import { Fault, type Json } from "#kernel/fault.ts";
import type { z } from "zod";

/**
 * Parses user input with a schema. Throws `invalid` with one entry per mistake in `detail.fields`:
 * `{field, message}`; unknown fields are named.
 * @param at where in the request the value stands, such as `spec`; empty for the body itself
 */
export function parseInput<T>(schema: z.ZodType<T>, value: unknown, at: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const fields = result.error.issues.flatMap((issue) => toFields(issue, at)).slice(0, fieldsShown);
  const first = fields[0];
  throw new Fault("invalid", first ? `${first.field}: ${first.message}` : "the request is not valid", {
    reason: "VALIDATION_ERROR",
    detail: { fields },
  });
}

type Field = { field: string; message: string };
const fieldsShown = 20;

function toFields(issue: z.core.$ZodIssue, at: string): Field[] {
  const path = [...(at === "" ? [] : [at]), ...issue.path.map(String)];
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => ({
      field: [...path, key].join(".").slice(0, 200),
      message: "unknown field",
    }));
  }
  return [{ field: path.join(".").slice(0, 200) || "body", message: issue.message }];
}

/** RFC 7396: objects are merged, null removes, everything else replaces. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const merged: Record<string, unknown> = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else merged[key] = mergePatch(merged[key], value);
  }
  return merged;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether two JSON values mean the same, whatever the order of keys. */
export function sameJson(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((item, i) => sameJson(item, b[i]));
  }
  if (!isObject(a) || !isObject(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => key in b && sameJson(a[key], b[key]));
}

const labelKey = /^[\p{L}\p{N}]([\p{L}\p{N} ._:/@-]{0,126}[\p{L}\p{N}])?$/u;
const maxLabels = 64;

/** Names are for people: any text of one line, up to 255 characters. */
export function checkName(name: unknown): string {
  if (typeof name !== "string") throw invalidField("name", "must be text");
  const trimmed = name.trim();
  if (trimmed === "" || trimmed.length > 255) throw invalidField("name", "must be 1 to 255 characters long");
  if (/\p{Cc}|\p{Cs}/u.test(trimmed)) throw invalidField("name", "must not hold control characters");
  return trimmed;
}

export function checkLabels(labels: Readonly<Record<string, unknown>>): Record<string, string> {
  const entries = Object.entries(labels);
  if (entries.length > maxLabels) throw invalidField("labels", `must be at most ${String(maxLabels)}`);
  for (const [key, value] of entries) {
    if (!labelKey.test(key)) throw invalidField(`labels.${key.slice(0, 80)}`, "is not a label's name");
    if (typeof value !== "string" || value.length > 1024 || /\0|\p{Cs}/u.test(value)) {
      throw invalidField(`labels.${key}`, "must be text of at most 1024 characters");
    }
  }
  return labels as Record<string, string>;
}

export function invalidField(
  field: string,
  message: string,
  more: { readonly [key: string]: Json } = {},
): Fault {
  return new Fault("invalid", `${field}: ${message}`, {
    reason: "VALIDATION_ERROR",
    detail: { fields: [{ field, message }], ...more },
  });
}

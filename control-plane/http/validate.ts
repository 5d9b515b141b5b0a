import type { z } from "zod";
import { Fault } from "#kernel/fault.ts";
import type { Route } from "./route.ts";

const issuesShown = 20;

/** Parses with a schema; what does not fit is one `invalid` fault that names every field. */
export function parseWith<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const fields = result.error.issues.slice(0, issuesShown).flatMap((issue) => {
    const at = issue.path.map(String);
    if (issue.code !== "unrecognized_keys") return [{ field: name(at), message: issue.message }];
    return issue.keys.map((key) => ({ field: name([...at, key]), message: "unknown field" }));
  });
  const told = fields.slice(0, 3).map(({ field, message }) => `${field || what}: ${message}`);
  throw new Fault("invalid", `the ${what} is not valid: ${told.join("; ")}`, {
    reason: "VALIDATION_ERROR",
    detail: { fields },
  });
}

const name = (path: readonly string[]) => path.join(".").slice(0, 200);

/** PostgreSQL stores no NUL, and half a surrogate pair is no character. */
export const unstorable = /\0|\p{Surrogate}/u;

/** Reads the query string of a request for a route. `label.tier=web` arrives as `{ label: { tier: "web" } }`. */
export function parseQuery(route: Route, search: string): unknown {
  const given: Record<string, string | Record<string, string>> = {};
  for (const [key, value] of search === "" ? [] : new URLSearchParams(search)) {
    if (unstorable.test(key) || unstorable.test(value)) {
      throw invalidParameter(key, "has a character that cannot be stored");
    }
    const dot = key.indexOf(".");
    const group = dot < 0 ? key : key.slice(0, dot);
    if (group === "__proto__") throw invalidParameter(key, "is not a parameter of this request");
    const into = dot < 0 ? given : (given[group] ??= {});
    const name = dot < 0 ? key : key.slice(dot + 1);
    if (typeof into === "string" || Object.hasOwn(into, name)) throw invalidParameter(key, "is given twice");
    Object.defineProperty(into, name, { value, enumerable: true });
  }
  if (route.query) return parseWith(route.query, given, "query");
  const [unknown] = Object.keys(given);
  if (unknown !== undefined) throw invalidParameter(unknown, "is not a parameter of this request");
  return given;
}

function invalidParameter(key: string, why: string): Fault {
  const field = key.slice(0, 80).replace(unstorable, "?");
  return new Fault("invalid", `the query parameter ${JSON.stringify(field)} ${why}`, {
    reason: "VALIDATION_ERROR",
    detail: { fields: [{ field, message: why }] },
  });
}

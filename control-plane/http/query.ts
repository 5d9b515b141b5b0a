import type { Fault } from "#kernel/fault.ts";
import { invalidField, parseInput } from "../app/validation.ts";
import type { Route } from "./route.ts";

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
  if (route.query) return parseInput(route.query, given, "");
  const [unknown] = Object.keys(given);
  if (unknown !== undefined) throw invalidParameter(unknown, "is not a parameter of this request");
  return given;
}

function invalidParameter(key: string, why: string): Fault {
  return invalidField(key.slice(0, 80).replaceAll(/\0|\p{Surrogate}/gu, "?"), why);
}

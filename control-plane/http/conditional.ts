/** Conditional and repeatable requests: ETag, If-Match, If-None-Match, Idempotency-Key. */
import { createHash } from "node:crypto";
import type { MutationOptions } from "../app/resource-api.ts";
import { invalidField } from "../app/validation.ts";
import type { Resource } from "../resources/definition.ts";
import type { Call } from "./route.ts";

const tag = /^"(\d{1,15})"$/;
const key = /^[\x21-\x7e]{1,255}$/;
/** No resource has it, so a tag that we never gave out never matches. */
const noRevision = -1;

export const etagOf = (resource: Resource): string => `"${String(resource.revision)}"`;

/** The revision that `If-Match` asks for. `*` asks for any; a tag that is not ours matches none. */
export function ifMatchOf(call: Call<unknown, unknown>): number | undefined {
  const given = call.request.headers["if-match"]?.trim();
  if (given === undefined || given === "*") return undefined;
  const revision = tag.exec(given)?.[1];
  return revision === undefined ? noRevision : Number(revision);
}

/** True when the client has this very revision already. */
export function isUnchanged(call: Call<unknown, unknown>, resource: Resource): boolean {
  const given = call.request.headers["if-none-match"];
  if (given === undefined) return false;
  const current = etagOf(resource);
  return given.split(",").some((one) => ["*", current, `W/${current}`].includes(one.trim()));
}

/** What a mutation takes from the request's headers, with the way its answer is worded. */
export function mutationOf(
  call: Call<unknown, unknown>,
  respond: MutationOptions["respond"],
): MutationOptions {
  return { idempotency: idempotencyOf(call), ifMatch: ifMatchOf(call), respond };
}

/** The key with which a request may be repeated, and what tells it from other requests. */
export function idempotencyOf(call: Call<unknown, unknown>): MutationOptions["idempotency"] {
  const given = call.request.headers["idempotency-key"];
  if (given === undefined || call.request.method !== "POST") return undefined;
  if (typeof given !== "string" || !key.test(given)) {
    throw invalidField("Idempotency-Key", "must be 1 to 255 printable characters without spaces");
  }
  const path = (call.request.url ?? "").replace(/\?.*$/, "");
  const subject = `POST\n${path}\n${canonical(call.body)}`;
  return { key: given, requestHash: createHash("sha256").update(subject).digest("hex") };
}

/** JSON with sorted keys, so that the order in which a client writes its fields does not matter. */
export function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, member]) => `${JSON.stringify(name)}:${canonical(member)}`);
  return `{${members.join(",")}}`;
}

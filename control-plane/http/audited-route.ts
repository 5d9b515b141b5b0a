import { kinds } from "../resources/kinds.ts";
import type { Params, Route } from "./route.ts";

/** How paths call the collections of kinds; the compatible APIs have names of their own for some. */
const kindOf = new Map([
  ...kinds.map(({ kind, plural }) => [plural, kind] as const),
  ["vms", "instance"],
  ["api-keys", "api_key"],
]);
const base = ["skerry", "api", "v1"];
const verbs: Readonly<Record<Route["method"], string>> = {
  GET: "read",
  POST: "create",
  PUT: "set",
  PATCH: "update",
  DELETE: "delete",
  OPTIONS: "described",
};

/** What a route does, in the words of the audit log: `instance.create`, `instance.start`, `user.password.set`. */
export function auditedRoute(
  { method, path, changes, upgrade }: Pick<Route, "method" | "path" | "changes" | "upgrade">,
  params: Params,
) {
  const segments = path.split("/").filter((segment) => segment !== "");
  const kindAt = segments.findIndex((segment) => kindOf.has(segment));
  const at = kindAt >= 0 ? kindAt : segments.findIndex((segment) => !base.includes(segment));
  const [collection = "", ...rest] = segments.slice(at).filter((segment) => !segment.startsWith("{"));
  const resource = kindOf.get(collection) ?? collection;
  // A POST below a resource is what its last word says, and so is what is no mere GET.
  const verb = (method === "POST" || changes) && rest.length > 0 ? [] : [upgrade ? "join" : verbs[method]];
  const id = /^\{(\w+)\}$/.exec(segments[at + 1] ?? "")?.[1];
  const action = [resource, ...rest, ...verb].join(".");
  return { action, resource, resource_id: id === undefined ? null : (params[id] ?? null) };
}

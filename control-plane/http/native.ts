/** The native API: its routes derive from the kinds and from nothing else; what no kind says is an extra. */
import type { ResourceApi } from "../app/resource-api.ts";
import { exampleOf } from "../resources/example.ts";
import type { AnyDefinition } from "../resources/definition.ts";
import { problemSchema, problemType, toProblem } from "./faults.ts";
import { withExamples } from "./examples.ts";
import { resourceSchema, toNative } from "./native-json.ts";
import { pascal, type KindRoutes } from "./native-kind.ts";
import { getRoute, listRoute } from "./native-reads.ts";
import { createRoute, deleteRoute, updateRoute, verbRoute } from "./native-writes.ts";
import type { Route, Surface } from "./route.ts";

export interface NativeOptions {
  readonly kinds: readonly AnyDefinition[];
  readonly resources: ResourceApi;
  /** Routes beyond the kinds; one with a kind route's method and path takes its place. */
  readonly extras?: readonly Route[];
}

const base = "/skerry/v1";

/** Makes the native surface. */
export function nativeSurface({ kinds, resources, extras = [] }: NativeOptions): Surface {
  const replaced = new Set(extras.map((route) => `${route.method} ${route.path}`));
  const derived = kinds.flatMap((kind) => kindRoutes(kind, resources));
  return {
    name: "skerry",
    title: "Skerry",
    prefixes: [base],
    routes: [...derived.filter((route) => !replaced.has(`${route.method} ${route.path}`)), ...extras],
    errorSchema: problemSchema,
    errorContentType: problemType,
    encodeFault: (fault, { requestId }) => toProblem(fault, requestId),
  };
}

function kindRoutes(kind: AnyDefinition, resources: ResourceApi): Route[] {
  const one = { name: pascal(kind.kind), schema: resourceSchema(kind) };
  const shared: KindRoutes = {
    kind,
    resources,
    collection: `${base}/${kind.plural}`,
    single: `${base}/${kind.plural}/{id}`,
    one,
  };
  const routes = [
    listRoute(shared),
    getRoute(shared),
    ...(kind.access.create ? [createRoute(shared)] : []),
    ...(kind.access.update ? [updateRoute(shared)] : []),
    ...(kind.access.delete ? [deleteRoute(shared)] : []),
    ...Object.keys(kind.verbs).map((verb) => verbRoute(shared, verb)),
  ];
  const resource = exampleOf(kind);
  if (!resource || !kind.example) return routes;
  const item = toNative(resource);
  const { name, labels = {}, spec } = kind.example;
  return withExamples(routes, {
    one: item,
    page: { items: [item], total: 1, next_cursor: null },
    list: `list${pascal(kind.plural)}`,
    bodies: { [`create${one.name}`]: { name, labels, spec } },
  });
}

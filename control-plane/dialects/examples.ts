/** Examples of a kind's requests and answers, by its routes: the kind's own one, told as the dialect tells it. */
import { withExamples } from "../http/examples.ts";
import type { Route } from "../http/route.ts";
import { exampleOf } from "../resources/example.ts";
import type { AnyDialectKind, Dialect, ListParameters } from "./dialect.ts";

/** A request of somebody who asked for the first page. */
const asked = {
  ctx: { requestId: "req-5f1c2d3e", now: () => Date.parse("2026-01-15T10:32:00Z") },
  query: {} satisfies ListParameters,
  request: { headers: {}, url: "" },
};

/** The routes with the examples that the kind gives. */
export function withKindExamples(routes: readonly Route[], dialect: Dialect, kind: AnyDialectKind): Route[] {
  const resource = exampleOf(kind.definition);
  if (!resource) return [...routes];
  const data = kind.encode(resource);
  const { paging, envelope } = dialect;
  const plural = kind.path.slice(kind.path.lastIndexOf("/") + 1);
  const range = paging.range(asked.query, kind.pageSize);
  const { create, update, actions = {} } = kind.examples ?? {};
  const named = Object.entries({ create, update, ...actions });
  return withExamples(routes, {
    one: envelope.wrap(data, asked.ctx),
    page: paging.encode({ items: [data], total: 1, plural }, range, asked).body,
    list: `list${kind.types}`,
    bodies: Object.fromEntries(named.map(([name, body]) => [`${name}${kind.type}`, body])),
  });
}

/** The routes of a dialect's kind, from its table: list, create, get, change, delete, actions. */
import { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import { isFault } from "#kernel/fault.ts";
import type { Reply, ResourceApi, Shown } from "../app/resource-api.ts";
import { etagOf, isUnchanged, mutationOf } from "../http/conditional.ts";
import { defineRoute, type Call, type Route } from "../http/route.ts";
import { departed, type AnyDefinition, type Resource } from "../resources/definition.ts";
import {
  collectionPath,
  singlePath,
  withPrefix,
  type AnyDialectKind,
  type Dialect,
  type DialectAction,
  type ListParameters,
} from "./dialect.ts";
import { withKindExamples } from "./examples.ts";
import { inWordsOf } from "./words.ts";

interface Of {
  readonly dialect: Dialect;
  readonly kind: AnyDialectKind;
  readonly resources: ResourceApi;
}

/** Everything that the kind offers in the dialect. */
export function kindRoutes(dialect: Dialect, kind: AnyDialectKind, resources: ResourceApi): Route[] {
  const of = { dialect, kind, resources };
  const routes = [
    listRoute(of),
    ...(kind.create ? [createRoute(of, kind.create)] : []),
    getRoute(of),
    ...(kind.update ? [updateRoute(of, kind.update)] : []),
    ...(kind.deletes ? [deleteRoute(of)] : []),
    ...Object.entries(kind.actions ?? {}).map(([name, action]) => actionRoute(of, name, action)),
  ];
  return withKindExamples(routes, dialect, kind);
}

/** A list of the kind at its collection. */
export function listRoute({ dialect, kind, resources }: Of): Route {
  const { definition, filters, pageSize, types } = kind;
  const { paging } = dialect;
  const plural = kind.path.slice(kind.path.lastIndexOf("/") + 1);
  const shape = (filters as z.ZodObject).shape;
  const query = z.strictObject({ ...shape, ...paging.parameters(pageSize) }) as z.ZodType<ListParameters>;
  const schema = paging.schema(kind.wire, plural);
  return defineRoute({
    method: "GET",
    path: collectionPath(dialect, kind),
    operationId: `list${types}`,
    summary: `List ${definition.plural.replaceAll("-", " ")}`,
    tag: plural,
    role: definition.access.read,
    query,
    answers: { 200: { description: "a page", schema, parts: { [kind.type]: kind.wire } } },
    handle: inWordsOf(kind, async (call: Call<ListParameters>) => {
      const range = paging.range(call.query, pageSize);
      const wanted = kind.toQuery(call.query);
      // A word of their own asks for them; without it, what has gone is not there.
      const gone = kind.showsDeparted && wanted.phases?.includes("deleted");
      const from = gone ? departed(definition) : definition;
      const page = await resources.list(call.ctx, from, { ...wanted, ...range });
      const items = page.items.map((item) => kind.encode(item));
      const { body, headers } = paging.encode({ items, total: page.total, plural }, range, call);
      return { status: 200, headers, body };
    }),
  });
}

function createRoute(of: Of, create: NonNullable<AnyDialectKind["create"]>): Route {
  const { dialect, kind, resources } = of;
  const { definition } = kind;
  const shown = Object.entries(definition.shownOnce ?? {}).map(
    ([name, { summary }]) => [name, z.string().optional().describe(summary)] as const,
  );
  const wire = shown.length === 0 ? kind.wire : (kind.wire as z.ZodObject).extend(Object.fromEntries(shown));
  const path = collectionPath(dialect, kind);
  return defineRoute({
    method: "POST",
    path,
    operationId: `create${kind.type}`,
    summary: `Create: ${definition.summary}`,
    tag: tagOf(kind),
    role: definition.access.create ?? "admin",
    body: create.body,
    mutates: true,
    answers: { 201: { description: "created", ...shownAs(of), schema: dialect.envelope.schema(wire) } },
    handle: inWordsOf(kind, (call) =>
      resources.create(
        call.ctx,
        definition,
        create.toInput(call.body),
        mutationOf(call, (resource, secrets) => {
          const { headers, ...reply } = replyOf(of, call.ctx, 201, resource, secrets);
          const location = singlePath(dialect, kind).replace(
            /\{\w+\}/,
            withPrefix(resource.id, kind.idPrefix),
          );
          return { ...reply, headers: { ...headers, Location: location } };
        }),
      ),
    ),
  });
}

function getRoute(of: Of): Route {
  const { dialect, kind } = of;
  return defineRoute({
    method: "GET",
    path: singlePath(dialect, kind),
    operationId: `get${kind.type}`,
    summary: `Get one: ${kind.definition.summary}`,
    tag: tagOf(kind),
    role: kind.definition.access.read,
    answers: { 200: { description: "as it is now", ...shownAs(of) }, 304: { description: "unchanged" } },
    handle: inWordsOf(kind, async (call) => {
      const found = await find(of, call.ctx, await idOf(of, call));
      if (!isUnchanged(call, found)) return replyOf(of, call.ctx, 200, found);
      return { status: 304, headers: { ETag: etagOf(found) }, body: null };
    }),
  });
}

function updateRoute(of: Of, update: NonNullable<AnyDialectKind["update"]>): Route {
  const { dialect, kind, resources } = of;
  return defineRoute({
    method: "PATCH",
    path: singlePath(dialect, kind),
    operationId: `update${kind.type}`,
    summary: "Change it; what cannot change while it runs waits for a restart",
    tag: tagOf(kind),
    role: kind.definition.access.update ?? "admin",
    body: update.body,
    mutates: true,
    answers: { 200: { description: "as it is to be", ...shownAs(of) } },
    handle: inWordsOf(kind, async (call) => {
      const options = mutationOf(call, (resource) => replyOf(of, call.ctx, 200, resource));
      return resources.update(
        call.ctx,
        kind.definition,
        await idOf(of, call),
        update.toInput(call.body),
        options,
      );
    }),
  });
}

function deleteRoute(of: Of): Route {
  const { dialect, kind, resources } = of;
  const { definition } = kind;
  const status = definition.reconciled ? 202 : 200;
  return defineRoute({
    method: "DELETE",
    path: singlePath(dialect, kind),
    operationId: `delete${kind.type}`,
    summary: "Delete it",
    tag: tagOf(kind),
    role: definition.access.delete ?? "admin",
    mutates: true,
    answers: { [status]: { description: "as it was last", ...shownAs(of) } },
    handle: inWordsOf(kind, async (call) => {
      const options = mutationOf(call, (resource) => replyOf(of, call.ctx, status, resource));
      return resources.delete(call.ctx, definition, await idOf(of, call), options);
    }),
  });
}

function actionRoute(of: Of, name: string, action: DialectAction): Route {
  const { dialect, kind, resources } = of;
  const { definition } = kind;
  const deletes = "deletes" in action;
  return defineRoute({
    method: "POST",
    path: singlePath(dialect, kind, name),
    operationId: `${name}${kind.type}`,
    summary: "verb" in action ? (definition.verbs[action.verb]?.summary ?? name) : action.summary,
    tag: tagOf(kind),
    role: definition.access[deletes ? "delete" : "update"] ?? "admin",
    body: "body" in action ? action.body : z.strictObject({}),
    mutates: true,
    answers: { 202: { description: "accepted", ...shownAs(of) } },
    handle: inWordsOf(kind, async (call) => {
      const { ctx, body } = call;
      const id = await idOf(of, call);
      const options = mutationOf(call, (resource) => replyOf(of, ctx, 202, resource));
      if ("verb" in action) return resources.invoke(ctx, definition, id, action.verb, {}, options);
      if ("deletes" in action) return resources.delete(ctx, definition, id, options);
      return resources.update(ctx, definition, id, action.toInput(body), options);
    }),
  });
}

/** The one with the id; the one that had it, where the kind shows those that have gone. */
async function find({ kind, resources }: Of, ctx: Ctx, id: string): Promise<Resource> {
  const definition: AnyDefinition = kind.definition;
  try {
    return await resources.get(ctx, definition, id);
  } catch (thrown) {
    if (!kind.showsDeparted || !isFault(thrown, "notFound")) throw thrown;
    return resources.get(ctx, departed(definition), id);
  }
}

const tagOf = ({ path }: AnyDialectKind) => path.slice(path.lastIndexOf("/") + 1);

const shownAs = ({ dialect, kind }: Of) => ({
  schema: dialect.envelope.schema(kind.wire),
  parts: { [kind.type]: kind.wire },
});

/** The id in the path, at once; of kinds whose names do as well, the id behind the name. */
function idOf(of: Of, call: Call<unknown, unknown>): string | Promise<string> {
  const given = call.params[of.kind.idName] ?? "";
  return of.kind.named ? findId(of, call, given) : given;
}

async function findId(
  { kind, resources }: Of,
  { ctx }: Call<unknown, unknown>,
  given: string,
): Promise<string> {
  const { items } = await resources.list(ctx, kind.definition, { name: given, limit: 1 });
  return items[0]?.id ?? given;
}

function replyOf(
  { dialect, kind }: Of,
  ctx: Ctx,
  status: number,
  resource: Resource,
  secrets?: Shown,
): Reply {
  const data = kind.encode(resource);
  const body = secrets ? { ...(data as object), ...secrets } : data;
  const headers = { ETag: etagOf(resource), ...(secrets && { "Cache-Control": "no-store" }) };
  return { status, headers, body: dialect.envelope.wrap(body, ctx) };
}

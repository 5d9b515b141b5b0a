import { z } from "zod";
import { etagOf, isUnchanged } from "./conditional.ts";
import { listSchema, toNative } from "./native-json.ts";
import { pascal, reply, waitDeadlineMs, waitParameter, type KindRoutes } from "./native-kind.ts";
import { flagParameter, integerParameter, listParameter } from "./parameters.ts";
import { defineRoute, type Route } from "./route.ts";
import { toEventStream } from "./sse.ts";

const defaultLimit = 100;
const maxLimit = 1000;

/** GET of the collection: a page, or a watch of all that match. */
export function listRoute({ kind, resources, collection, one }: KindRoutes): Route {
  const filters = Object.entries(kind.filters).map(
    ([filter, { summary }]) =>
      [filter, z.string().max(255).optional().meta({ description: summary })] as const,
  );
  const query = z.strictObject({
    phase: listParameter(kind.phases as readonly [string, ...string[]], "phases, comma-separated").optional(),
    name: z.string().max(255).optional().meta({ description: "exact name" }),
    label: z.record(z.string(), z.string()).optional().meta({ description: "value of the label <key>" }),
    limit: integerParameter({
      min: 1,
      max: maxLimit,
      default: defaultLimit,
      description: "most items to answer",
    }).optional(),
    cursor: z.string().max(1024).optional().meta({ description: "next_cursor of the page before" }),
    watch: flagParameter("stream the present and every change as server-sent events").optional(),
  });
  type ListParameters = z.infer<typeof query> & { readonly [filter: string]: unknown };
  const full = query.extend(Object.fromEntries(filters)) as z.ZodType<ListParameters>;
  return defineRoute({
    method: "GET",
    path: collection,
    operationId: `list${pascal(kind.plural)}`,
    summary: `List ${kind.plural}`,
    tag: kind.plural,
    role: kind.access.read,
    query: full,
    answers: {
      200: { description: "a page", schema: listSchema(one.schema), parts: { [one.name]: one.schema } },
    },
    async handle({ ctx, query: given }) {
      const { phase, name: named, label, limit, cursor, watch } = given;
      const chosen = Object.keys(kind.filters).flatMap((filter) => {
        const value = given[filter];
        return typeof value === "string" ? [[filter, value] as const] : [];
      });
      const matching = {
        ...(phase && { phases: phase }),
        ...(named !== undefined && { name: named }),
        ...(label && { labels: label }),
        filters: Object.fromEntries(chosen),
      };
      if (watch) return toEventStream(resources.watch(ctx, kind, matching), ctx.signal);
      const page = await resources.list(ctx, kind, {
        ...matching,
        limit: limit ?? defaultLimit,
        ...(cursor !== undefined && { cursor }),
      });
      const items = page.items.map(toNative);
      const body = { items, total: page.total, next_cursor: page.nextCursor ?? null };
      return { status: 200, headers: {}, body };
    },
  });
}

/** GET of one, now, once it has settled, or as it changes. */
export function getRoute({ kind, resources, single, one }: KindRoutes): Route {
  const query = z.strictObject({
    wait: waitParameter,
    watch: flagParameter("stream its changes as server-sent events").optional(),
  });
  return defineRoute({
    method: "GET",
    path: single,
    operationId: `get${one.name}`,
    summary: `Get one of the ${kind.plural}`,
    tag: kind.plural,
    role: kind.access.read,
    query,
    deadlineMs: waitDeadlineMs,
    answers: { 200: { description: "the resource", ...one }, 304: { description: "unchanged" } },
    async handle(call) {
      const { ctx, params, query: given } = call;
      const id = params["id"] ?? "";
      if (given.watch) {
        const { id: canonicalId } = await resources.get(ctx, kind, id);
        return toEventStream(resources.watch(ctx, kind, { id: canonicalId }), ctx.signal);
      }
      const waited = given.wait ? await resources.wait(ctx, kind, id, given.wait * 1000) : undefined;
      const resource = waited ?? (await resources.get(ctx, kind, id));
      if (isUnchanged(call, resource)) {
        return { status: 304, headers: { ETag: etagOf(resource) }, body: null };
      }
      return reply(200, resource);
    },
  });
}

/** The native API: its routes derive from the kinds and from nothing else; what no kind says is an extra. */
import { z } from "zod";
import type { Reply, ResourceApi } from "../app/resource-api.ts";
import type { AnyDefinition, Resource } from "../resources/definition.ts";
import { etagOf, isUnchanged, mutationOf } from "./conditional.ts";
import { problemSchema, problemType, toProblem } from "./faults.ts";
import {
  labelsPatchSchema,
  labelsSchema,
  listSchema,
  nameSchema,
  resourceSchema,
  toNative,
} from "./native-json.ts";
import { flagParameter, integerParameter, listParameter } from "./parameters.ts";
import { defineRoute, type Answer, type AnswerDoc, type Call, type Route, type Surface } from "./route.ts";
import { toEventStream } from "./sse.ts";

export interface NativeOptions {
  readonly kinds: readonly AnyDefinition[];
  readonly resources: ResourceApi;
  /** Routes beyond the kinds; one with a kind route's method and path takes its place. */
  readonly extras?: readonly Route[];
}

const base = "/skerry/v1";
const defaultWaitSeconds = 60;
const maxWaitSeconds = 300;
const defaultLimit = 100;
const maxLimit = 1000;
const handlerMs = 30_000;

const wait = z
  .union([
    z.literal("").transform(() => defaultWaitSeconds),
    integerParameter({ min: 0, max: maxWaitSeconds, description: "" }),
  ])
  .optional()
  .meta({
    description: "answer when it has settled, or after so many seconds as it is then",
    parameter: { type: "integer", minimum: 0, maximum: maxWaitSeconds, default: defaultWaitSeconds },
  });
const waitQuery = z.strictObject({ wait });
type WaitQuery = z.infer<typeof waitQuery>;
const waitDeadlineMs = (query: { readonly wait?: number | undefined }) =>
  handlerMs + (query.wait ?? 0) * 1000;

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
  const shared: Shared = {
    kind,
    resources,
    collection: `${base}/${kind.plural}`,
    single: `${base}/${kind.plural}/{id}`,
    one,
    name: one.name,
  };
  return [
    listRoute(shared),
    getRoute(shared),
    ...(kind.access.create ? [createRoute(shared)] : []),
    ...(kind.access.update ? [updateRoute(shared)] : []),
    ...(kind.access.delete ? [deleteRoute(shared)] : []),
    ...Object.keys(kind.verbs).map((verb) => verbRoute(shared, verb)),
  ];
}

interface Shared {
  readonly kind: AnyDefinition;
  readonly resources: ResourceApi;
  readonly collection: string;
  readonly single: string;
  readonly one: { readonly name: string; readonly schema: z.ZodType };
  readonly name: string;
}

function listRoute({ kind, resources, collection, one, name }: Shared): Route {
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
    answers: { 200: { description: "a page", name: `${name}List`, schema: listSchema(one.schema) } },
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
      return ok({ items, total: page.total, next_cursor: page.nextCursor ?? null });
    },
  });
}

function getRoute({ kind, resources, single, one, name }: Shared): Route {
  const query = z.strictObject({
    wait,
    watch: flagParameter("stream its changes as server-sent events").optional(),
  });
  return defineRoute({
    method: "GET",
    path: single,
    operationId: `get${name}`,
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

function createRoute({ kind, resources, collection, one, name }: Shared): Route {
  const body = z.strictObject({
    name: nameSchema,
    labels: labelsSchema.optional(),
    spec: z.unknown(),
  });
  return defineRoute({
    method: "POST",
    path: collection,
    operationId: `create${name}`,
    summary: `Create one of the ${kind.plural}: ${kind.summary}`,
    tag: kind.plural,
    role: kind.access.create ?? "admin",
    query: waitQuery,
    deadlineMs: waitDeadlineMs,
    body,
    bodyDoc: body.extend({ spec: kind.spec }),
    mutates: true,
    answers: { 201: { description: "created", ...one } },
    async handle(call) {
      const { name: named, labels, spec } = call.body;
      const input = { name: named, ...(labels && { labels }), spec: spec ?? {} };
      const options = mutationOf(call, (r) => ({
        status: 201,
        headers: { ETag: etagOf(r), Location: `${collection}/${r.id}` },
        body: toNative(r),
      }));
      const created = await resources.create(call.ctx, kind, input, options);
      return settled(created, call, kind, resources);
    },
  });
}

function updateRoute({ kind, resources, single, one, name }: Shared): Route {
  const body = z.strictObject({
    name: nameSchema.optional(),
    labels: labelsPatchSchema.optional(),
    spec: z.record(z.string(), z.unknown()).optional().describe("merge patch (RFC 7396) on the spec"),
  });
  return defineRoute({
    method: "PATCH",
    path: single,
    operationId: `update${name}`,
    summary: `Change one of the ${kind.plural} (merge patch)`,
    tag: kind.plural,
    role: kind.access.update ?? "admin",
    query: waitQuery,
    deadlineMs: waitDeadlineMs,
    body,
    mutates: true,
    answers: changeAnswers(one),
    async handle(call) {
      const { name: named, labels, spec } = call.body;
      const input = {
        ...(named !== undefined && { name: named }),
        ...(labels && { labels }),
        ...(spec && { spec }),
      };
      const options = mutationOf(call, (r) => changed(kind, r));
      const updated = await resources.update(call.ctx, kind, call.params["id"] ?? "", input, options);
      return settled(updated, call, kind, resources);
    },
  });
}

function verbRoute({ kind, resources, single, one, name }: Shared, verb: string): Route {
  const definition = kind.verbs[verb];
  return defineRoute({
    method: "POST",
    path: `${single}/${verb}`,
    operationId: `${verb}${name}`,
    summary: definition?.summary ?? verb,
    tag: kind.plural,
    role: kind.access.update ?? "admin",
    query: waitQuery,
    deadlineMs: waitDeadlineMs,
    body: z.record(z.string(), z.unknown()),
    ...(definition && { bodyDoc: definition.input }),
    mutates: true,
    answers: changeAnswers(one),
    async handle(call) {
      const options = mutationOf(call, (r) => changed(kind, r));
      const id = call.params["id"] ?? "";
      const invoked = await resources.invoke(call.ctx, kind, id, verb, call.body, options);
      return settled(invoked, call, kind, resources);
    },
  });
}

function deleteRoute({ kind, resources, single, one, name }: Shared): Route {
  return defineRoute({
    method: "DELETE",
    path: single,
    operationId: `delete${name}`,
    summary: `Delete one of the ${kind.plural}`,
    tag: kind.plural,
    role: kind.access.delete ?? "admin",
    query: waitQuery,
    deadlineMs: waitDeadlineMs,
    mutates: true,
    answers: { 202: { description: "being deleted", ...one }, 204: { description: "gone" } },
    async handle(call) {
      const { ctx, query: given } = call;
      const id = call.params["id"] ?? "";
      // What nothing runs for is gone with its row; the rest goes when its owners have confirmed.
      const options = mutationOf(call, (r) => (kind.reconciled ? reply(202, r) : gone));
      const deleted = await resources.delete(ctx, kind, id, options);
      if (deleted.status === gone.status || !given.wait) return deleted;
      const left = await resources.wait(ctx, kind, id, given.wait * 1000);
      return left ? reply(202, left) : gone;
    },
  });
}

/** With `?wait`, the answer as it is once the resource has settled. */
async function settled(
  first: Reply,
  { ctx, query }: Call<WaitQuery>,
  kind: AnyDefinition,
  resources: ResourceApi,
): Promise<Answer> {
  const { body } = first;
  const id = typeof body === "object" && body !== null && "id" in body ? body.id : undefined;
  if (!query.wait || typeof id !== "string") return first;
  const resource = await resources.wait(ctx, kind, id, query.wait * 1000);
  if (!resource) return first;
  const next = first.status === 201 ? reply(201, resource) : changed(kind, resource);
  return { ...next, headers: { ...first.headers, ...next.headers } };
}

const gone: Reply = { status: 204, headers: {}, body: null };
const ok = (body: Reply["body"]): Reply => ({ status: 200, headers: {}, body });

/** One resource as an answer, with its tag. */
export function reply(status: number, resource: Resource): Reply {
  return { status, headers: { ETag: etagOf(resource) }, body: toNative(resource) };
}

/** 202 while there is work to do, 200 when there is none. */
const changed = (kind: AnyDefinition, r: Resource): Reply =>
  reply(kind.reconciled && r.observedGeneration < r.generation ? 202 : 200, r);

const changeAnswers = (one: { name: string; schema: z.ZodType }): Record<number, AnswerDoc> => ({
  200: { description: "done", ...one },
  202: { description: "accepted; work goes on", ...one },
});

const pascal = (words: string) =>
  words.replace(/(?:^|[_-])(\w)/g, (_match, first: string) => first.toUpperCase());

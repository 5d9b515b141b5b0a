import { z } from "zod";
import type { Reply, ResourceApi } from "../app/resource-api.ts";
import type { AnyDefinition, Resource } from "../resources/definition.ts";
import { etagOf, mutationOf } from "./conditional.ts";
import { labelsPatchSchema, labelsSchema, nameSchema, resourceSchema, toNative } from "./native-json.ts";
import { reply, waitDeadlineMs, waitQuery, type KindRoutes, type WaitQuery } from "./native-kind.ts";
import { defineRoute, type Answer, type AnswerDoc, type Call, type Route } from "./route.ts";

const noStore = { "Cache-Control": "no-store" };
const gone: Reply = { status: 204, headers: {}, body: null };

export function createRoute({ kind, resources, collection, one }: KindRoutes): Route {
  const body = z.strictObject({
    name: nameSchema,
    labels: labelsSchema.optional(),
    spec: z.record(z.string(), z.unknown()).optional(),
  });
  const shown = Object.entries(kind.shownOnce ?? {}).map(
    ([name, { summary }]) => [name, z.string().optional().describe(summary)] as const,
  );
  const created =
    shown.length > 0
      ? { name: `Created${one.name}`, schema: resourceSchema(kind).extend(Object.fromEntries(shown)) }
      : one;
  return defineRoute({
    method: "POST",
    path: collection,
    operationId: `create${one.name}`,
    summary: `Create one of the ${kind.plural}: ${kind.summary}`,
    tag: kind.plural,
    role: kind.access.create ?? "admin",
    query: waitQuery,
    deadlineMs: waitDeadlineMs,
    body,
    bodyDoc: body.extend({ spec: kind.spec.safeParse({}).success ? kind.spec.optional() : kind.spec }),
    mutates: true,
    answers: { 201: { description: "created", ...created } },
    async handle(call) {
      const { name: named, labels, spec } = call.body;
      const input = { name: named, ...(labels && { labels }), spec: spec ?? {} };
      const options = mutationOf(call, (r, secrets) => ({
        status: 201,
        headers: { ETag: etagOf(r), Location: `${collection}/${r.id}`, ...(secrets && noStore) },
        body: { ...toNative(r), ...secrets },
      }));
      const created = await resources.create(call.ctx, kind, input, options);
      return settled(created, call, kind, resources);
    },
  });
}

export function updateRoute({ kind, resources, single, one }: KindRoutes): Route {
  const body = z.strictObject({
    name: nameSchema.optional(),
    labels: labelsPatchSchema.optional(),
    spec: z.record(z.string(), z.unknown()).optional().describe("merge patch (RFC 7396) on the spec"),
  });
  return defineRoute({
    method: "PATCH",
    path: single,
    operationId: `update${one.name}`,
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

export function verbRoute({ kind, resources, single, one }: KindRoutes, verb: string): Route {
  const definition = kind.verbs[verb];
  return defineRoute({
    method: "POST",
    path: `${single}/${verb}`,
    operationId: `${verb}${one.name}`,
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

export function deleteRoute({ kind, resources, single, one }: KindRoutes): Route {
  return defineRoute({
    method: "DELETE",
    path: single,
    operationId: `delete${one.name}`,
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
export async function settled(
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

/** 202 while there is work to do, 200 when there is none. */
const changed = (kind: AnyDefinition, r: Resource): Reply =>
  reply(kind.reconciled && r.observedGeneration < r.generation ? 202 : 200, r);

const changeAnswers = (one: { name: string; schema: z.ZodType }): Record<number, AnswerDoc> => ({
  200: { description: "done", ...one },
  202: { description: "accepted; work goes on", ...one },
});

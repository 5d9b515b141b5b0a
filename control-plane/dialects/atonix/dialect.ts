/** The conventions of the Atonix-compatible API: an envelope around everything, pages by limit and offset. */
import { z } from "zod";
import type { Ctx } from "#kernel/ctx.ts";
import type { Fault, FaultCode, Json } from "#kernel/fault.ts";
import { detailOf } from "../../http/faults.ts";
import { integerParameter } from "../../http/parameters.ts";
import type { ErrorContext } from "../../http/route.ts";
import { codeOf } from "../codes.ts";
import type { Dialect } from "../dialect.ts";

const maxLimit = 1000;
const maxOffset = 1_000_000_000;
const areas = ["compute", "storage", "networking", "automation", "monitoring", "webhooks"];

const codes: Readonly<Record<FaultCode, string>> = {
  invalid: "INVALID_REQUEST",
  unauthenticated: "UNAUTHORIZED",
  denied: "FORBIDDEN",
  notFound: "NOT_FOUND",
  conflict: "CONFLICT",
  exhausted: "CONFLICT",
  stale: "CONFLICT",
  unavailable: "SERVICE_UNAVAILABLE",
  internal: "INTERNAL_ERROR",
};

const meta = z.object({ request_id: z.string(), timestamp: z.iso.datetime() });
const toMeta = (requestId: string, now: number) => ({
  request_id: requestId,
  timestamp: new Date(now).toISOString(),
});
const wrap = (
  data: Json,
  { requestId, now }: Pick<Ctx, "requestId" | "now">,
  more?: { [key: string]: Json },
) => ({
  success: true,
  data,
  ...more,
  meta: toMeta(requestId, now()),
});

const schema = (data: z.ZodType) => z.object({ success: z.literal(true), data, meta });

export const atonix: Dialect = {
  name: "atonix",
  title: "Skerry, Atonix-compatible",
  prefixes: [...areas.map((area) => `/v1/${area}`), "/graphql"],
  base: "/v1",
  pathEnd: "",
  errorSchema: z.object({
    success: z.literal(false),
    error: z.object({
      code: z.string(),
      message: z.string(),
      details: z.record(z.string(), z.unknown()),
    }),
    meta,
  }),
  errorContentType: "application/json; charset=utf-8",
  encodeFault,
  envelope: { schema, wrap: (data, ctx) => wrap(data, ctx) },
  paging: {
    parameters: (size) => ({
      limit: integerParameter({ min: 1, max: maxLimit, default: size, description: "items" }).optional(),
      offset: integerParameter({
        min: 0,
        max: maxOffset,
        default: 0,
        description: "items to pass over",
      }).optional(),
    }),
    range: ({ limit, offset }, size) => ({
      limit: typeof limit === "number" ? limit : size,
      offset: typeof offset === "number" ? offset : 0,
    }),
    schema: (item) =>
      schema(z.array(item)).extend({
        pagination: z.object({ limit: z.int(), offset: z.int(), total: z.int() }),
      }),
    encode: ({ items, total }, { limit, offset }, { ctx }) => ({
      body: wrap(items, ctx, { pagination: { limit, offset, total } }),
      headers: {},
    }),
  },
};

function encodeFault(fault: Fault, { requestId, now }: ErrorContext): Json {
  const details = { reason: fault.reason, ...detailOf(fault) };
  const error = { code: codeOf(fault, codes), message: fault.message, details };
  return { success: false, error, meta: toMeta(requestId, now) };
}

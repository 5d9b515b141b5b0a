/** The conventions of the Services-compatible API: bare data, pages on request, a slash at the end of each path. */
import { z } from "zod";
import type { Fault, FaultCode, Json } from "#kernel/fault.ts";
import { detailOf } from "../../http/faults.ts";
import { integerParameter } from "../../http/parameters.ts";
import { codeOf } from "../codes.ts";
import type { Asked, Dialect, ListParameters } from "../dialect.ts";

const most = 1000;
const maxPage = 1_000_000;

const codes: Readonly<Record<FaultCode, string>> = {
  invalid: "BAD_REQUEST",
  unauthenticated: "UNAUTHORIZED",
  denied: "FORBIDDEN",
  notFound: "NOT_FOUND",
  conflict: "CONFLICT",
  exhausted: "CONFLICT",
  stale: "CONFLICT",
  unavailable: "SERVICE_UNAVAILABLE",
  internal: "SERVER_ERROR",
};

export const services: Dialect = {
  name: "services",
  title: "Skerry, Services-compatible",
  prefixes: ["/api/v1/services", "/api/v1/webhooks", "/api/auth"],
  base: "/api/v1/services",
  pathEnd: "/",
  errorSchema: z.object({
    error: z.string(),
    code: z.string(),
    details: z.record(z.string(), z.unknown()),
  }),
  errorContentType: "application/json; charset=utf-8",
  encodeFault: (fault) => ({ error: fault.message, code: codeOf(fault, codes), details: toDetails(fault) }),
  envelope: { schema: (data) => data, wrap: (data) => data },
  paging: {
    parameters: (size) => ({
      page: integerParameter({ min: 1, max: maxPage, description: "page, from 1" }).optional(),
      page_size: integerParameter({
        min: 1,
        max: most,
        default: size,
        description: "items on a page",
      }).optional(),
    }),
    range(query, size) {
      if (!isPaged(query)) return { limit: most, offset: 0 };
      const limit = typeof query["page_size"] === "number" ? query["page_size"] : size;
      return { limit, offset: (pageOf(query) - 1) * limit };
    },
    schema: (item) =>
      z.union([
        z.array(item),
        z.object({
          count: z.int(),
          next: z.string().nullable(),
          previous: z.string().nullable(),
          results: z.array(item),
        }),
      ]),
    encode({ items, total }, { limit, offset }, call) {
      const page = isPaged(call.query) ? pageOf(call.query) : 1;
      const more = offset + items.length < total;
      const next = more ? linkTo(call, page + 1, limit) : null;
      if (!isPaged(call.query)) {
        return { body: items, headers: next === null ? {} : { Link: `<${next}>; rel="next"` } };
      }
      const previous = page > 1 ? linkTo(call, page - 1, limit) : null;
      return { body: { count: total, next, previous, results: items }, headers: {} };
    },
  },
};

const isPaged = (query: ListParameters) => query["page"] !== undefined || query["page_size"] !== undefined;
const pageOf = (query: ListParameters) => (typeof query["page"] === "number" ? query["page"] : 1);

const hostPattern = /^[\w.:[\]-]{1,255}$/;

/** The same list at another page, at the address that the client used. */
function linkTo({ request }: Asked, page: number, size: number): string {
  const { host = "", "x-forwarded-proto": forwarded } = request.headers;
  const origin = hostPattern.test(host) ? `${forwarded === "https" ? "https" : "http"}://${host}` : "";
  const [path = "", search = ""] = (request.url ?? "").split("?");
  const parameters = new URLSearchParams(search);
  parameters.set("page", String(page));
  parameters.set("page_size", String(size));
  return `${origin}${path}?${parameters.toString()}`;
}

/** A list of what is wrong by field; of other faults, what is known of them. */
function toDetails(fault: Fault): { readonly [name: string]: Json } {
  const { fields, ...rest } = detailOf(fault);
  const reason = { reason: fault.reason };
  if (!Array.isArray(fields)) return { ...reason, ...rest };
  // A map: fields are called what the client likes, such as `constructor`.
  const byField = new Map<string, string[]>();
  for (const { field, message } of fields as readonly { field: string; message: string }[]) {
    byField.set(field, [...(byField.get(field) ?? []), message]);
  }
  return { ...rest, ...Object.fromEntries(byField) };
}

/** The conventions of the NovaCron-compatible API: lists by page under the name of what they hold. */
import { z } from "zod";
import { integerParameter } from "../../http/parameters.ts";
import type { Dialect } from "../dialect.ts";
import { encodeFault, errorSchema } from "./errors.ts";

const areas = ["auth", "vms", "migrations", "providers", "edge", "users", "audit", "metrics", "agents"];
const maxLimit = 1000;
const maxPage = 1_000_000;

export const novacron: Dialect = {
  name: "novacron",
  title: "Skerry, NovaCron-compatible",
  prefixes: areas.map((area) => `/v1/${area}`),
  base: "/v1",
  pathEnd: "",
  errorSchema,
  errorContentType: "application/json; charset=utf-8",
  encodeFault,
  envelope: { schema: (data) => data, wrap: (data) => data },
  paging: {
    parameters: (size) => ({
      page: integerParameter({ min: 1, max: maxPage, default: 1, description: "page, from 1" }).optional(),
      limit: integerParameter({
        min: 1,
        max: maxLimit,
        default: size,
        description: "items per page",
      }).optional(),
    }),
    range({ page, limit }, size) {
      const items = typeof limit === "number" ? limit : size;
      return { limit: items, offset: ((typeof page === "number" ? page : 1) - 1) * items };
    },
    schema: (item, plural) =>
      z.object({ [plural]: z.array(item), total: z.int(), page: z.int(), limit: z.int() }),
    encode: ({ items, total, plural }, { limit, offset }) => ({
      body: { [plural]: items, total, page: offset / limit + 1, limit },
      headers: {},
    }),
  },
};

/**
 * What the dialects are measured against: Koa, pg and one query, as short as it can be written. The
 * statements are those that the product sends, and the answers are the same, in each API's own form.
 */
import { randomUUID } from "node:crypto";
import type { AddressInfo } from "node:net";
import Koa from "koa";
import pg from "pg";
import { listStatements } from "#cp/app/resource-queries.ts";
import { instanceKind as atonix } from "#cp/dialects/atonix/instance.ts";
import { vmKind as novacron } from "#cp/dialects/novacron/vm.ts";
import { instanceKind as services } from "#cp/dialects/services/instance.ts";
import { resourceColumns, toResource, type ResourceRow } from "#cp/engine/rows.ts";
import { toNative } from "#cp/http/native-json.ts";
import { instance, type Instance } from "#cp/resources/instance/instance.resource.ts";
import { anonymous } from "#cp/http/request-context.ts";
import type { BareServerOptions } from "./bare.ts";
import { readOptions } from "./programs.ts";

interface BareApi {
  one(item: Instance): object;
  list(items: readonly object[]): object;
}

const limit = 100;
const meta = () => ({ request_id: randomUUID(), timestamp: new Date().toISOString() });
const apis: Readonly<Record<string, BareApi>> = {
  "/skerry/v1/instances": {
    one: toNative,
    list: (items) => ({ items, total: items.length, next_cursor: null }),
  },
  "/v1/compute/instances": {
    one: (item) => atonix.encode(item),
    list: (data) => ({
      success: true,
      data,
      pagination: { limit, offset: 0, total: data.length },
      meta: meta(),
    }),
  },
  "/api/v1/services/instances": {
    one: (item) => services.encode(item),
    list: (items) => ({ count: items.length, next: null, previous: null, results: items }),
  },
  "/v1/vms": {
    one: (item) => novacron.encode(item),
    list: (vms) => ({ vms, total: vms.length, page: 1, limit }),
  },
};

const { databaseUrl, connections } = readOptions<BareServerOptions>();
pg.types.setTypeParser(pg.types.builtins.INT8, Number);
const pool = new pg.Pool({ connectionString: databaseUrl, max: connections });
const { page } = listStatements({ ...anonymous, project: "root" }, instance, { limit });
const read = { name: "read", text: `select ${resourceColumns} from resource where id = $1` };

const koa = new Koa();
koa.use(async (exchange) => {
  const path = exchange.path.replace(/\/$/, "");
  const list = apis[path];
  if (list) {
    const { rows } = await pool.query<ResourceRow>({ ...page, values: [...page.values] } as pg.QueryConfig);
    exchange.body = list.list(rows.map((row) => list.one(toResource(row) as Instance)));
    return;
  }
  const slash = path.lastIndexOf("/");
  const api = apis[path.slice(0, slash)];
  const id = `vm${path.slice(path.indexOf("-", slash))}`;
  const { rows } = await pool.query<ResourceRow>({ ...read, values: [id] });
  const [row] = rows;
  if (!api || !row) return;
  const item = api.one(toResource(row) as Instance);
  exchange.body = path.startsWith("/v1/compute/") ? { success: true, data: item, meta: meta() } : item;
});
const server = koa.listen(0, "127.0.0.1", () => {
  const { port } = server.address() as AddressInfo;
  process.stdout.write(`${JSON.stringify({ event: "ready", port })}\n`);
});

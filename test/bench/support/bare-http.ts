/**
 * What the API is measured against: node:http, pg and one query, as short as it can be written. The
 * statement is the one that GET /v1/vms/{id} sends, and the answer is the same to the byte.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import pg from "pg";
import { vmKind } from "#cp/dialects/novacron/vm.ts";
import { resourceColumns, toResource, type ResourceRow } from "#cp/engine/rows.ts";
import type { Instance } from "#cp/resources/instance/instance.resource.ts";
import type { BareServerOptions } from "./bare.ts";
import { readOptions } from "./programs.ts";

const { databaseUrl, connections } = readOptions<BareServerOptions>();
const pool = new pg.Pool({ connectionString: databaseUrl, max: connections });
const text = `select ${resourceColumns} from resource where id = $1`;

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const id = request.url?.split("/").at(-1);
  const { rows } = await pool.query<ResourceRow>({
    name: "read",
    text,
    values: [id],
  });
  const [row] = rows;
  const body = row ? JSON.stringify(vmKind.encode(toResource(row) as Instance)) : "{}";
  response.writeHead(row ? 200 : 404, {
    "Content-Type": "application/json; charset=utf-8",
    "Content-Length": Buffer.byteLength(body),
  });
  response.end(body);
}

const server = createServer((request, response) => {
  answer(request, response).catch((error: unknown) => response.writeHead(500).end(String(error)));
});
server.listen(0, "127.0.0.1", () => {
  const { port } = server.address() as AddressInfo;
  process.stdout.write(`${JSON.stringify({ event: "ready", port })}\n`);
});

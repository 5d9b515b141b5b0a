/** Consoles over WebSockets, on the replica that holds the host or through another. */
import { once } from "node:events";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { WebSocket } from "ws";
import { ReadLogResponseSchema } from "#gen/skerry/agent/v1/console_pb.js";
import type { AgentPort } from "#cp/agents/port.ts";
import { Fault } from "#kernel/fault.ts";
import { createInstance, hostId, reportRunning, startApi, type World } from "#test/support/api-world.ts";
import { until } from "#test/support/until.ts";

void t.test("consoles", async (t) => {
  const typed: string[] = [];
  const opened: bigint[] = [];
  const agents: Partial<Pick<AgentPort, "attachConsole" | "readConsoleLog">> = {
    async *attachConsole(host, { offset }, input, signal) {
      t.equal(host, hostId);
      opened.push(offset);
      yield { output: Buffer.from("login: "), offset: 107n };
      for await (const bytes of input) {
        typed.push(Buffer.from(bytes).toString());
        if (typed.at(-1) === "exit") return;
        if (typed.at(-1) === "break") throw new Fault("unavailable", "cut", { reason: "HOST_NOT_CONNECTED" });
        yield { output: bytes, offset: 107n + BigInt(bytes.length) };
        if (signal.aborted) return;
      }
    },
    readConsoleLog: async (_host, { offset, limit }) =>
      create(ReadLogResponseSchema, { output: Buffer.from(`${offset} ${limit}`), offset: 5n, endOffset: 9n }),
  };
  const world = await startApi(t, { agents });
  const id = await createInstance(world);
  await reportRunning(world, id);
  const path = `/skerry/v1/instances/${id}/console`;
  const bearer = { authorization: `Bearer ${world.pair.access_token}` };
  const connect = (
    to: World,
    suffix = "",
    protocols: string[] = [],
    headers: Record<string, string> = bearer,
  ) => new WebSocket(`ws://127.0.0.1:${String(to.port)}${path}${suffix}`, protocols, { headers });
  const frames = (socket: WebSocket) => {
    const seen: string[] = [];
    socket.on("message", (data: Buffer, binary) =>
      seen.push(binary ? data.toString() : `text ${data.toString()}`),
    );
    return seen;
  };
  const refusal = async (socket: WebSocket) => {
    socket.on("error", () => undefined);
    const [, response] = (await once(socket, "unexpected-response")) as [unknown, { statusCode: number }];
    socket.terminate();
    return response.statusCode;
  };

  await t.test("carries bytes both ways and says where it is", async (t) => {
    const socket = connect(world, "?offset=100");
    const seen = frames(socket);
    await once(socket, "open");
    socket.send(Buffer.from("root\n"));
    await until(() => seen.includes('text {"offset":112}'));
    t.same(seen, ['text {"offset":100}', "login: ", 'text {"offset":107}', "root\n", 'text {"offset":112}']);
    t.equal(opened.at(-1), 100n);
    socket.send(Buffer.from("exit"));
    t.equal((await once(socket, "close"))[0], 1000);
    const joins = await world.database.query("select event from audit_event where event ->> 'action' = $1", [
      "instance.console.join",
    ]);
    t.match(joins, [{ event: { username: "admin", success: true, resource: "instance" } }]);
  });

  await t.test("takes the token as a subprotocol, as browsers must send it", async (t) => {
    const protocols = ["skerry.console.v1", `bearer.${world.pair.access_token}`];
    const socket = connect(world, "", protocols, { origin: world.url });
    await once(socket, "open");
    t.equal(socket.protocol, "skerry.console.v1");
    t.equal(opened.at(-1), -1n);
    socket.send(Buffer.from("break"));
    const [code, reason] = (await once(socket, "close")) as [number, Buffer];
    t.same([code, reason.toString()], [1013, "HOST_NOT_CONNECTED"]);
  });

  await t.test("refuses strangers, other origins, plain requests and unplaced instances", async (t) => {
    t.equal(await refusal(connect(world, "", [], {})), 401);
    t.equal(await refusal(connect(world, "", [], { ...bearer, origin: "http://evil.example" })), 403);
    t.equal(await refusal(connect(world, "?offset=x")), 400);
    t.equal((await world.call("GET", path)).status, 426);
    const unplaced = await createInstance(world, "unplaced");
    const socket = new WebSocket(
      `ws://127.0.0.1:${String(world.port)}/skerry/v1/instances/${unplaced}/console`,
      { headers: bearer },
    );
    t.equal(await refusal(socket), 409);
    const nowhere = new WebSocket(`ws://127.0.0.1:${String(world.port)}/v1/vms`, { headers: bearer });
    t.equal(await refusal(nowhere), 400);
  });

  await t.test("reads the log", async (t) => {
    const response = await fetch(`${world.url}${path}/log?offset=3&limit=7`, { headers: bearer });
    t.equal(await response.text(), "3 7");
    t.match(response.headers.get("content-type"), /^text\/plain/);
    t.equal(response.headers.get("x-console-offset"), "5");
    t.equal(response.headers.get("x-console-end"), "9");
  });

  await t.test("is relayed to the replica that holds the host, once", async (t) => {
    // The near replica shares nothing with the far one but the database: here, its row and its key.
    const near = await startApi(t, { locate: async () => ({ url: world.url }) });
    const lost = await startApi(t, { locate: async () => ({ url: looping.url }) });
    const looping = { url: "" };
    for (const replica of [near, lost]) {
      await replica.database.query("delete from resource where kind = 'host'");
      const rows = await world.database.query<{ row: unknown }>(
        "select to_jsonb(r) as row from resource r where kind in ('instance', 'host')",
      );
      for (const { row } of rows) {
        await replica.database.query(
          "insert into resource select * from jsonb_populate_record(null::resource, $1)",
          [JSON.stringify(row)],
        );
      }
    }
    looping.url = lost.url;
    const key = await world.call("POST", "/skerry/v1/api-keys", { name: "shared" });
    const keyed = { authorization: `Token ${String(key.body["api_key"])}` };
    for (const replica of [near, lost]) {
      const [account] = await replica.database.query<{ id: string }>("select id from account");
      await replica.database.query(
        `insert into api_key (id, account_id, secret_hash, name, project)
           select $1, $2, encode(sha256(convert_to($3, 'UTF8')), 'hex'), 'shared', 'root'`,
        ["key-shared", account?.id, String(key.body["api_key"])],
      );
    }
    const log = await fetch(`${near.url}${path}/log?offset=1&limit=2`, { headers: keyed });
    t.equal(await log.text(), "1 2");
    t.equal(log.headers.get("x-console-end"), "9");

    const socket = connect(near, "?offset=100", [], keyed);
    const seen = frames(socket);
    await once(socket, "open");
    socket.send(Buffer.from("hi"));
    await until(() => seen.includes("hi"));
    socket.close();
    await once(socket, "close");

    const looped = await fetch(`${lost.url}${path}/log`, { headers: keyed });
    t.equal(looped.status, 503);
    t.match(await looped.json(), { reason: "HOST_NOT_CONNECTED" });
  });
});

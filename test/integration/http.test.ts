/** The server under all APIs: how it answers what is wrong, how much it reads and how long it waits, and how it stops. */
import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { connect as connectTcp } from "node:net";
import t from "tap";
import { newId } from "#kernel/id.ts";
import { createInstance, reportRunning, startApi } from "#test/support/api-world.ts";
import { until } from "#test/support/until.ts";

void t.test("errors and limits", async (t) => {
  const ready = { is: false };
  const world = await startApi(t, {
    checks: [
      {
        name: "database",
        check: async () => {
          if (!ready.is) throw new Error("not yet, on host 10.1.2.3");
        },
      },
    ],
  });
  const { call, url } = world;

  await t.test("speaks the dialect of the path, and RFC 9457 where asked", async (t) => {
    const novacron = await call("GET", "/v1/vms/nothing/here");
    t.equal(novacron.status, 404);
    t.match(novacron.body, { error: { code: "RESOURCE_NOT_FOUND", details: {}, timestamp: /Z$/ } });
    for (const path of ["/v1/agents", "/v1/agents/spawn"]) {
      t.match(await call("GET", path), { status: 404, body: { error: { code: "RESOURCE_NOT_FOUND" } } });
    }
    for (const path of ["/skerry/v1/nothing", "/", "/v1/other", "/v1"]) {
      const { status, headers, body } = await call("GET", path);
      t.equal(status, 404, path);
      t.match(headers.get("content-type"), /^application\/problem\+json/);
      t.match(body, { status: 404, code: "notFound", reason: "ROUTE_NOT_FOUND", request_id: String });
    }
    const problem = await call("GET", "/v1/vms/none", undefined, { accept: "application/problem+json" });
    t.match(problem.body, { type: "about:blank", status: 404, code: "notFound" });
    const method = await call("PUT", "/v1/vms");
    t.equal(method.status, 405);
    t.equal(method.headers.get("allow"), "GET, POST");
    t.equal((await call("GET", "/v1/vms/%ff")).status, 400);
  });

  await t.test("passes request ids on, cleaned", async (t) => {
    const given = await call("GET", "/healthz", undefined, { "x-request-id": "trace-1" });
    t.equal(given.headers.get("x-request-id"), "trace-1");
    const dirty = await call("GET", "/healthz", undefined, { "x-request-id": 'a"b c' });
    t.match(dirty.headers.get("x-request-id"), /^[0-9a-f-]{36}$/);
    t.ok(world.lines.some((line) => line["event"] === "http.request" && line["request_id"] === "trace-1"));
    const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    await call("GET", "/healthz", undefined, { traceparent });
    t.ok(world.lines.some((line) => line["trace_id"] === "4bf92f3577b34da6a3ce929d0e0e4736"));
  });

  await t.test("is ready when its parts are", async (t) => {
    t.equal((await call("GET", "/healthz")).status, 200);
    const before = await call("GET", "/readyz");
    t.equal(before.status, 503);
    t.ok(before.headers.get("retry-after"));
    t.notMatch(JSON.stringify(before.body), /10\.1\.2\.3/);
    ready.is = true;
    t.match(await call("GET", "/readyz"), { status: 200, body: { status: "ready" } });
  });

  await t.test("refuses bodies that are too large, not JSON or not text", async (t) => {
    const post = async (body: Uint8Array | string, type = "application/json") => {
      const response = await fetch(`${url}/v1/vms`, {
        method: "POST",
        headers: { authorization: `Bearer ${world.pair.access_token}`, "content-type": type },
        body,
      });
      const answer = (await response.json()) as { error: { code: string } };
      return { status: response.status, code: answer.error.code };
    };
    const filler = `{"name":"${"x".repeat(10 * 1024 ** 2)}"}`;
    t.same(await post(filler), { status: 413, code: "BODY_TOO_LARGE" });
    t.same(await post("{"), { status: 400, code: "VALIDATION_ERROR" });
    t.same(await post(Buffer.from([0x22, 0xff, 0xfe, 0x22])), { status: 400, code: "VALIDATION_ERROR" });
    t.same(await post("a=b", "application/x-www-form-urlencoded"), {
      status: 415,
      code: "UNSUPPORTED_MEDIA_TYPE",
    });
    t.same(await post("{}", "application/json; charset=latin1"), {
      status: 415,
      code: "UNSUPPORTED_MEDIA_TYPE",
    });
    t.same(await post(`${"[".repeat(100_000)}${"]".repeat(100_000)}`), {
      status: 400,
      code: "VALIDATION_ERROR",
    });
    t.same(await post("null"), { status: 400, code: "VALIDATION_ERROR" });
    t.same(await post('{"__proto__":{"role":"admin"}}'), { status: 400, code: "VALIDATION_ERROR" });
    t.same(await post('{"name":"a\\u0000b","image":"micro"}'), { status: 400, code: "VALIDATION_ERROR" });
    t.same(await post('{"name":"a\\ud800b","image":"micro"}'), { status: 400, code: "VALIDATION_ERROR" });
  });

  await t.test("names what is wrong", async (t) => {
    const wrong = await call("POST", "/v1/vms", { name: "x", image: "micro", cpu: "four", colour: "red" });
    t.equal(wrong.status, 400);
    const { details } = wrong.body["error"] as { details: { fields: { field: string }[] } };
    t.same(details.fields.map(({ field }) => field).sort(), ["colour", "cpu"]);
    const native = await call("POST", "/skerry/v1/instances", {
      name: "x",
      spec: { image: "micro", colour: 1 },
    });
    t.match(native.body, { details: { fields: [{ field: "spec.colour" }] } });
    for (const query of [
      "colour=red",
      "limit=0",
      "limit=1&limit=2",
      "phase=purple",
      "limit=1e3",
      "watch=maybe",
      "name=%00",
      `cursor=${Buffer.from('["9999-99-99 00:00","x"]').toString("base64url")}`,
    ]) {
      t.equal((await call("GET", `/skerry/v1/instances?${query}`)).status, 400, query);
    }
    t.equal((await call("GET", "/skerry/v1/whoami?x=1")).status, 400);
    const stray = await call("DELETE", `/v1/vms/${newId("vm")}`, { force: true });
    t.equal(stray.status, 400, "a body where none is taken");
  });

  await t.test("tells of its own bugs nothing but an id", async (t) => {
    const { database } = world;
    await database.query("alter table api_key rename column name to hidden");
    const { status, body, headers } = await call("GET", "/skerry/v1/api-keys");
    await database.query("alter table api_key rename column hidden to name");
    t.equal(status, 500);
    const id = headers.get("x-request-id");
    t.match(body, { reason: "INTERNAL_ERROR", details: { request_id: id } });
    t.notMatch(JSON.stringify(body), /column|api_key/);
    const line = world.lines.find((candidate) => candidate["request_id"] === id);
    t.match(JSON.stringify(line), /column/, "the operator's log knows");
  });

  await t.test("ends with the client: nothing waits for nobody", async (t) => {
    const id = await createInstance(world, "left");
    const left = httpRequest(`${url}/skerry/v1/instances/${id}?wait=300`, {
      headers: { authorization: `Bearer ${world.pair.access_token}` },
    });
    left.on("error", () => undefined);
    left.end();
    await once(left, "socket");
    const seen = () =>
      world.lines.find((line) => line["operation"] === "getInstance" && line["reason"] === "CLIENT_GONE");
    const timer = setInterval(() => left.destroy(), 100);
    await until(() => seen() !== undefined);
    clearInterval(timer);
    t.match(seen(), { status: 503 });
  });
});

void t.test("deadlines and stopping", async (t) => {
  const world = await startApi(t, {
    deadlineMs: 50,
    agents: {
      readConsoleLog: () => new Promise(() => undefined),
      async *attachConsole(_host, _request, input) {
        for await (const output of input) yield { output, offset: 0n };
      },
    },
  });
  const id = await createInstance(world, "slow");
  await reportRunning(world, id);
  const slow = await world.call("GET", `/skerry/v1/instances/${id}/console/log`);
  t.equal(slow.status, 503);
  t.match(slow.body, { reason: "TIMEOUT", retryable: true });

  const deaf = connectTcp(world.port, "127.0.0.1");
  t.teardown(() => deaf.destroy());
  deaf.write(
    `GET /skerry/v1/instances/${id}/console HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${Buffer.alloc(16).toString("base64")}\r\n` +
      `Authorization: Bearer ${world.pair.access_token}\r\n\r\n`,
  );
  const [hello] = (await once(deaf, "data")) as [Buffer];
  t.match(hello.toString(), /^HTTP\/1.1 101 /);

  const stream = await fetch(`${world.url}/skerry/v1/instances?watch`, {
    headers: { authorization: `Bearer ${world.pair.access_token}` },
  });
  let text = "";
  const ended = (async () => {
    for await (const chunk of stream.body as unknown as AsyncIterable<Uint8Array>)
      text += Buffer.from(chunk).toString();
  })();
  await until(() => text.includes("event: synced"));
  await world.server.stop(300);
  await t.resolves(
    ended,
    "the stream ended in order; nor does a console whose client answers nothing hold it up",
  );
  await t.rejects(world.call("GET", "/healthz"));
});

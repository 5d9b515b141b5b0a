import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { connect as connectTcp } from "node:net";
import { createHmac, generateKeyPairSync } from "node:crypto";
import t from "tap";
import { Tokens } from "#cp/app/tokens.ts";
import { newId } from "#kernel/id.ts";
import {
  caller,
  createInstance,
  createProject,
  hostId,
  password,
  reportRunning,
  signIn,
  startApi,
  username,
  type World,
} from "#test/support/api-world.ts";
import { until } from "#test/support/until.ts";

const createBody = (name: string) => ({ name, spec: { image: "micro", cpus: 1 } });
const idOf = (body: Record<string, unknown>) => String(body["id"]);

/** Reads server-sent events until `enough` of them are there. */
async function readEvents(world: World, path: string, enough: (text: string) => boolean): Promise<string> {
  const controller = new AbortController();
  const response = await fetch(world.url + path, {
    headers: { authorization: `Bearer ${world.pair.access_token}` },
    signal: controller.signal,
  });
  t.equal(response.headers.get("content-type"), "text/event-stream; charset=utf-8");
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    text += decoder.decode(chunk, { stream: true });
    if (enough(text)) break;
  }
  controller.abort();
  return text;
}

void t.test("the native API", async (t) => {
  const world = await startApi(t);
  const { call } = world;

  await t.test("creates, reads, lists, changes and deletes", async (t) => {
    const created = await call("POST", "/skerry/v1/instances", {
      ...createBody("db"),
      labels: { tier: "data" },
    });
    t.equal(created.status, 201);
    const id = idOf(created.body);
    t.equal(created.headers.get("location"), `/skerry/v1/instances/${id}`);
    t.match(created.headers.get("x-request-id"), /^[0-9a-f-]{36}$/);
    t.match(created.body, {
      kind: "instance",
      project: "root",
      name: "db",
      labels: { tier: "data" },
      generation: 1,
      observed_generation: 0,
      phase: "pending",
      problem: null,
      spec: { image: "micro", cpus: 1, power: "on" },
      status: null,
      placement: null,
      deleting_at: null,
    });

    const read = await call("GET", `/skerry/v1/instances/${id}`);
    t.equal(read.status, 200);
    t.same(read.body, created.body);
    t.equal(read.headers.get("etag"), created.headers.get("etag"));

    for (const query of [
      "label.tier=data",
      "name=db",
      "phase=pending,running&limit=1",
      "label.tier=data&name=db",
    ]) {
      const listed = await call("GET", `/skerry/v1/instances?${query}`);
      t.same(
        (listed.body["items"] as { id: string }[]).map((item) => item.id),
        [id],
        query,
      );
      t.match(listed.body, { total: 1, next_cursor: null });
    }
    t.match((await call("GET", "/skerry/v1/instances?label.tier=web")).body, { items: [], total: 0 });

    const patched = await call("PATCH", `/skerry/v1/instances/${id}`, {
      name: "db2",
      labels: { tier: null, zone: "b" },
      spec: { cpus: 2 },
    });
    t.equal(patched.status, 202, "work goes on");
    t.match(patched.body, { name: "db2", labels: { zone: "b" }, generation: 2, spec: { cpus: 2 } });

    const stopped = await call("POST", `/skerry/v1/instances/${id}/stop`);
    t.equal(stopped.status, 202);
    t.match(stopped.body, { spec: { power: "off" } });

    const deleted = await call("DELETE", `/skerry/v1/instances/${id}`);
    t.equal(deleted.status, 202);
    t.match(deleted.body, { phase: "deleting" });
  });

  await t.test("pages by cursor", async (t) => {
    const ids = [
      await createInstance(world, "p1"),
      await createInstance(world, "p2"),
      await createInstance(world, "p3"),
    ];
    const found: string[] = [];
    let cursor = "";
    do {
      const { body } = await call(
        "GET",
        `/skerry/v1/instances?phase=pending&limit=2${cursor && `&cursor=${cursor}`}`,
      );
      found.push(...(body["items"] as { id: string }[]).map((item) => item.id));
      cursor = (body["next_cursor"] as string | null) ?? "";
    } while (cursor !== "");
    t.same(found, ids);
  });

  await t.test("honours ETags", async (t) => {
    const id = await createInstance(world, "etag");
    const path = `/skerry/v1/instances/${id}`;
    const etag = (await call("GET", path)).headers.get("etag") ?? "";
    t.equal((await call("GET", path, undefined, { "if-none-match": etag })).status, 304);
    t.equal((await call("PATCH", path, { name: "b" }, { "if-match": etag })).status, 202);
    for (const stale of [etag, '"not-ours"', "garbage"]) {
      const refused = await call("PATCH", path, { name: "c" }, { "if-match": stale });
      t.equal(refused.status, 412, stale);
      t.match(refused.body, { reason: "PRECONDITION_FAILED" });
    }
    t.equal((await call("POST", `${path}/stop`, {}, { "if-match": etag })).status, 412);
    t.equal((await call("DELETE", path, undefined, { "if-match": etag })).status, 412);
    t.equal((await call("DELETE", path, undefined, { "if-match": "*" })).status, 202);
  });

  await t.test("repeats answers by idempotency key", async (t) => {
    const headers = { "idempotency-key": "one" };
    const first = await call("POST", "/skerry/v1/instances", createBody("once"), headers);
    const reordered = `{"spec":{"cpus":1,"image":"micro"},"name":"once"}`;
    const again = await call("POST", "/skerry/v1/instances", reordered, headers);
    t.equal(again.status, 201);
    t.same(again.body, first.body);
    const other = await call("POST", "/skerry/v1/instances", createBody("twice"), headers);
    t.equal(other.status, 409);
    t.match(other.body, { reason: "IDEMPOTENCY_KEY_REUSED" });
    t.match((await call("GET", "/skerry/v1/instances?name=once")).body, { total: 1 });
    t.equal(
      (await call("POST", "/skerry/v1/instances", createBody("x"), { "idempotency-key": "a b" })).status,
      400,
    );
  });

  await t.test("waits until it has settled", async (t) => {
    const waiting = call("POST", "/skerry/v1/instances?wait=20", createBody("waits"));
    let id = "";
    await until(async () => {
      const { body } = await call("GET", "/skerry/v1/instances?name=waits");
      const [item] = body["items"] as { id: string }[];
      id = item?.id ?? "";
      return id !== "";
    });
    await reportRunning(world, id);
    const { status, body, headers } = await waiting;
    t.equal(status, 201);
    t.match(body, { id, phase: "running", placement: { host_id: hostId, provider: "aws" } });
    t.equal(headers.get("location"), `/skerry/v1/instances/${id}`);
    t.match((await call("GET", `/skerry/v1/instances/${id}?wait`)).body, { phase: "running" });
    const expired = await call("PATCH", `/skerry/v1/instances/${id}?wait=1`, { spec: { cpus: 2 } });
    t.equal(expired.status, 202, "not settled in time: as it is");
    const placement = await call("GET", `/skerry/v1/instances/${id}/placement`);
    t.match(placement.body, { id, host_id: hostId, explanation: {} });
  });

  await t.test("streams watches", async (t) => {
    const id = await createInstance(world, "watched");
    const changing = async (text: string) => {
      if (text.includes("event: synced"))
        await call("PATCH", `/skerry/v1/instances/${id}`, { name: "renamed" });
    };
    let changed = false;
    const text = await readEvents(world, `/skerry/v1/instances/${id}?watch`, (so_far) => {
      if (!changed && so_far.includes("event: synced")) {
        changed = true;
        void changing(so_far);
      }
      return so_far.includes("event: changed");
    });
    const events = [...text.matchAll(/^event: (\w+)$/gm)].map(([, type]) => type);
    t.same(events, ["present", "synced", "changed"]);
    t.match(text, /^retry: \d+$/m);
    t.match(text, new RegExp(`^id: ${id}@2$`, "m"));
    t.match(text, /"name":"renamed"/);
  });

  await t.test("takes uploads without reading them as JSON", async (t) => {
    const { body } = await call("POST", "/skerry/v1/images", {
      name: "disk",
      spec: { source: { type: "upload" } },
    });
    const content = "x".repeat(3 * 1024 ** 2);
    const uploaded = await call("PUT", `/skerry/v1/images/${idOf(body)}/content`, content, {
      "content-type": "application/octet-stream",
    });
    t.equal(uploaded.status, 200);
    t.same(world.uploads, [{ id: idOf(body), bytes: content.length }]);
    const missing = await call("PUT", `/skerry/v1/images/${newId("img")}/content`, content);
    t.equal(missing.status, 404);
  });

  await t.test("says who is asking and manages API keys", async (t) => {
    t.match((await call("GET", "/skerry/v1/whoami")).body, { username, role: "admin", project: "root" });
    const { status, body } = await call("POST", "/skerry/v1/api-keys", { name: "ci" });
    t.equal(status, 201);
    t.match(body["api_key"], /^sk_/);
    const withKey = caller(world.url, `Token ${String(body["api_key"])}`);
    t.match((await withKey("GET", "/skerry/v1/whoami")).body, { username });
    const listed = await call("GET", "/skerry/v1/api-keys");
    t.notMatch(JSON.stringify(listed.body), String(body["api_key"]));
    t.match(listed.body["items"], [{ id: body["id"], name: "ci" }]);
    t.equal((await call("DELETE", `/skerry/v1/api-keys/${idOf(body)}`)).status, 204);
    t.equal((await withKey("GET", "/skerry/v1/whoami")).status, 401);
    t.equal((await call("DELETE", `/skerry/v1/api-keys/${idOf(body)}`)).status, 404);
  });
});

void t.test("identity", async (t) => {
  const world = await startApi(t);
  const { url, call } = world;
  const guest = caller(url);
  const login = (name: string, secret: string) =>
    guest("POST", "/v1/auth/login", { username: name, password: secret, mfa_code: "123456" });

  await t.test("logs in and refreshes, each refresh token once", async (t) => {
    const first = await login(username, password);
    t.equal(first.status, 200);
    t.match(first.body, {
      access_token: String,
      refresh_token: String,
      expires_in: 3600,
      token_type: "Bearer",
    });
    const refresh = (token: unknown) => guest("POST", "/v1/auth/refresh", { refresh_token: token });
    const second = await refresh(first.body["refresh_token"]);
    t.equal(second.status, 200);
    t.equal((await refresh(first.body["refresh_token"])).status, 401, "reuse");
    t.equal((await refresh(second.body["refresh_token"])).status, 401, "reuse ends the family");
    t.equal((await refresh("rt_nonsense")).status, 401);

    const third = await login(username, password);
    const own = caller(url, `Bearer ${String(third.body["access_token"])}`);
    const token = third.body["refresh_token"];
    t.equal((await own("POST", "/v1/auth/logout", { refresh_token: token })).status, 204);
    t.equal((await refresh(token)).status, 401);
  });

  await t.test("takes no token that is not good", async (t) => {
    const good = world.pair.access_token;
    const [header = "", payload = "", signature = ""] = good.split(".");
    const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as Record<string, unknown>;
    const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const foreignKey = generateKeyPairSync("ed25519").privateKey;
    const { kid, publicKey } = await world.keys.current();
    const foreign = new Tokens({
      keys: { find: async () => undefined, current: async () => ({ kid, privateKey: foreignKey }) },
      identities: { findGranted: async () => undefined, findByApiKey: async () => undefined },
    });
    const confused = `${part({ alg: "HS256" })}.${payload}`;
    const bad: Record<string, string | undefined> = {
      none: undefined,
      empty: "",
      basic: `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`,
      garbage: "Bearer garbage",
      "alg none": `Bearer ${part({ alg: "none" })}.${payload}.`,
      "key confusion": `Bearer ${confused}.${createHmac(
        "sha256",
        publicKey.export({ type: "spki", format: "pem" }),
      )
        .update(confused)
        .digest("base64url")}`,
      "other claims": `Bearer ${header}.${part({ ...claims, role: "admin", sub: "other" })}.${signature}`,
      "other key": `Bearer ${(await foreign.issue({ id: "x", project: "root" }, { family: "x" })).token}`,
      "unknown key": "Token sk_nonsense",
      long: `Bearer ${"x".repeat(8000)}`,
    };
    for (const [name, authorization] of Object.entries(bad)) {
      const { status, headers, body } = await caller(url, authorization)("GET", "/v1/vms");
      t.equal(status, 401, name);
      t.match(headers.get("www-authenticate"), /^Bearer/);
      t.match(body, { error: { code: String, message: String, details: Object, timestamp: String } });
    }
    t.equal((await call("GET", "/v1/vms")).status, 200);
    world.clock.offsetMs = 3_601_000;
    const late = await call("GET", "/v1/vms");
    t.equal(late.status, 401, "expired, though it was seen before");
    t.match(late.body, { error: { code: "TOKEN_EXPIRED" } });
    world.clock.offsetMs = 0;
  });

  await t.test("locks an account after failures, and tells nothing of it", async (t) => {
    const unknown = await login("nobody", "wrong");
    t.equal(unknown.status, 401);
    for (let i = 0; i < 5; i++) t.equal((await login(username, "wrong")).status, 401);
    const locked = await login(username, password);
    t.equal(locked.status, 401);
    const words = ({ body }: typeof locked) => {
      const { code, message, details } = body["error"] as Record<string, unknown>;
      return { code, message, details };
    };
    t.same(words(locked), words(unknown));
    world.clock.offsetMs = 5 * 60_000 + 1;
    t.equal((await login(username, password)).status, 200);
    world.clock.offsetMs = 0;
  });

  await t.test("lets nobody do more than their role", async (t) => {
    const id = await createInstance(world, "guarded");
    const viewer = await signIn(world, { role: "viewer" });
    const operator = await signIn(world, { role: "operator" });
    const stranger = await signIn(world, { role: "operator", project: await createProject(world) });
    t.equal((await viewer("GET", `/skerry/v1/instances/${id}`)).status, 200);
    t.equal((await viewer("DELETE", `/skerry/v1/instances/${id}`)).status, 403);
    t.equal((await viewer("POST", "/v1/vms", { name: "x", image: "micro" })).status, 403);
    t.equal((await viewer("POST", `/v1/vms/${id}/start`)).status, 403);
    t.equal(
      (await operator("PATCH", `/skerry/v1/hosts/${hostId}`, { spec: { cordoned: true } })).status,
      403,
    );
    t.equal((await operator("GET", "/skerry/v1/enrolment-tokens")).status, 403);
    t.equal(
      (await operator("POST", "/skerry/v1/hosts/certificate", { certificate_request: "x" })).status,
      403,
    );
    for (const [method, path] of [
      ["GET", `/v1/vms/${id}`],
      ["DELETE", `/v1/vms/${id}`],
      ["POST", `/v1/vms/${id}/stop`],
      ["GET", `/skerry/v1/instances/${id}/console/log`],
      ["GET", `/v1/vms/${id}/metrics`],
    ] as const) {
      t.equal((await stranger(method, path)).status, 404, `${method} ${path}`);
    }
    t.match((await stranger("GET", "/v1/vms")).body, { vms: [], total: 0 });
  });
});

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

import t, { type Test } from "tap";
import { Fault } from "#kernel/fault.ts";
import { Skerry } from "#sdk/index.ts";
import type { RetryNotice, Tokens } from "#sdk/index.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { anInstance, page, problem, ScriptedCloud } from "#test/support/scripted-cloud.ts";

const instances = "/skerry/v1/instances";
const id = anInstance().id;

async function world(t: Test) {
  const server = await ScriptedCloud.start();
  t.teardown(() => server[Symbol.asyncDispose]());
  const retries: RetryNotice[] = [];
  const cloud = new Skerry({ url: server.url, apiKey: "sk_1", onRetry: (notice) => retries.push(notice) });
  return { server, cloud, retries };
}

await t.test("a create that meets a busy cloud is repeated with the same idempotency key", async (t) => {
  const { server, cloud, retries } = await world(t);
  server.on(
    `POST ${instances}`,
    problem(503, "unavailable", "DATABASE_AWAY", "later", { headers: { "retry-after": "0" } }),
    { raw: (response) => response.destroy() },
    { status: 201, body: anInstance() },
  );
  const made = await cloud.instances.create({ name: "web", spec: { image: "micro" } });
  t.equal(made.id, id);
  const asked = server.askedOf(`POST ${instances}`);
  t.equal(asked.length, 3);
  const keys = new Set(asked.map(({ headers }) => headers["idempotency-key"]));
  t.equal(keys.size, 1, "one key for all three");
  t.match([...keys][0], /^[0-9a-f]{32}$/);
  t.equal(asked[0]?.headers.authorization, "Token sk_1");
  t.same(asked[0]?.body, { name: "web", spec: { image: "micro" } });
  t.same(
    retries.map(({ fault, attempt }) => [attempt, fault.reason]),
    [
      [1, "DATABASE_AWAY"],
      [2, "CONNECTION_FAILED"],
    ],
  );
});

await t.test("another call has another key, unless one is given", async (t) => {
  const { server, cloud } = await world(t);
  server.on(`POST ${instances}/${id}/start`, { body: anInstance() });
  await cloud.instances.start(id);
  await cloud.instances.start(id);
  await cloud.instances.start(id, { idempotencyKey: "mine", waitSeconds: 5 });
  const asked = server.askedOf(`POST ${instances}/${id}/start`);
  t.equal(new Set(asked.map(({ headers }) => headers["idempotency-key"])).size, 3);
  t.equal(asked[2]?.headers["idempotency-key"], "mine");
  t.equal(asked[2]?.query.get("wait"), "5");
  t.same(asked[2]?.body, {});
});

await t.test("Retry-After is obeyed, and one that is too long is left to the caller", async (t) => {
  const { server, cloud, retries } = await world(t);
  const busy = (seconds: string) =>
    problem(429, "exhausted", "RATE_LIMITED", "slow down", {
      retryable: true,
      headers: { "retry-after": seconds },
    });
  server.on(`GET ${instances}/${id}`, busy("1"), { body: anInstance() });
  await cloud.instances.get(id);
  t.ok((retries[0]?.waitMs ?? 0) >= 1000);
  server.on(`GET ${instances}/${id}`, busy("600"));
  await t.rejects(cloud.instances.get(id), { reason: "RATE_LIMITED", code: "exhausted" });
  t.equal(retries.length, 1, "not tried again");
});

await t.test("a cloud that stays away is given up after the attempts", async (t) => {
  const { server } = await world(t);
  server.on(`GET ${instances}/${id}`, problem(503, "unavailable", "AWAY", "away"));
  const cloud = new Skerry({ url: server.url, apiKey: "sk_1", attempts: 3 });
  t.equal(await reasonOf(cloud.instances.get(id)), "AWAY");
  t.equal(server.asked.length, 3);
});

await t.test("answers become faults, whoever gives them", async (t) => {
  const { server, cloud } = await world(t);
  const details = { fields: [{ field: "spec.cpus", message: "too many" }] };
  server.on(`GET ${instances}/${id}`, problem(400, "invalid", "VALIDATION_ERROR", "wrong", { details }));
  const fault = await cloud.instances.get(id).catch((thrown: unknown) => thrown);
  t.ok(fault instanceof Fault);
  t.match(fault, {
    code: "invalid",
    reason: "VALIDATION_ERROR",
    message: "wrong",
    retryable: false,
    detail: { ...details, request_id: "req-1", status: 400 },
  });
  for (const [status, code] of [
    [401, "unauthenticated"],
    [403, "denied"],
    [404, "notFound"],
    [409, "conflict"],
    [412, "stale"],
    [418, "invalid"],
    [500, "internal"],
  ] as const) {
    server.on(`GET ${instances}/${id}`, { status, body: "<html>a proxy's page</html>" });
    await t.rejects(cloud.instances.get(id), { code, retryable: false }, `${status}`);
  }
  server.on(`GET ${instances}/${id}`, { body: "<html>some other site</html>" });
  await t.rejects(cloud.instances.get(id), { code: "internal", reason: "ANSWER_MALFORMED" });
  await t.rejects(cloud.instances.getWithETag(id), { code: "internal", reason: "ANSWER_MALFORMED" });
  server.on(`GET ${instances}/${id}`, { status: 204 });
  await t.rejects(cloud.instances.get(id), { code: "internal", reason: "ANSWER_MALFORMED" });
});

await t.test("a silent cloud costs the time limit and no more; a caller may leave at any time", async (t) => {
  const { server } = await world(t);
  server.on(`GET ${instances}/${id}`, { raw: () => undefined });
  const cloud = new Skerry({ url: server.url, apiKey: "sk_1", attempts: 2 });
  await t.rejects(cloud.instances.get(id, { timeoutMs: 100 }), { reason: "TIMEOUT", code: "unavailable" });
  t.equal(server.asked.length, 2);
  const leaving = new AbortController();
  const asking = cloud.instances.get(id, { signal: leaving.signal });
  leaving.abort(new Fault("unavailable", "enough", { reason: "INTERRUPTED" }));
  t.equal(await reasonOf(asking), "INTERRUPTED");
  t.equal(
    await reasonOf(new Skerry({ url: "http://127.0.0.1:9", attempts: 1 }).whoami()),
    "CONNECTION_FAILED",
  );
});

await t.test("lists are fetched page by page, and no page too many", async (t) => {
  const { server, cloud } = await world(t);
  const items = ["a", "b", "c"].map((name) => anInstance({ name }));
  server.on(`GET ${instances}`, ({ query }) => {
    const at = Number(query.get("cursor") ?? 0);
    const next = at + 1 < items.length ? String(at + 1) : null;
    return { body: { items: [items[at]], total: items.length, next_cursor: next } };
  });
  const listing = cloud.instances.list(
    { phase: ["running", "stopped"], region: "eastus", labels: { tier: "front" } },
    { pageSize: 1 },
  );
  const names: string[] = [];
  for await (const { name } of listing) {
    names.push(name);
    if (names.length === 2) break;
  }
  t.same(names, ["a", "b"]);
  t.equal(server.asked.length, 2, "the third page was never asked for");
  t.equal(
    server.asked[1]?.query.toString(),
    "phase=running%2Cstopped&region=eastus&label.tier=front&limit=1&cursor=1",
  );
  t.equal((await listing.all()).length, 3);
  t.equal((await listing.first()).total, 3);
});

await t.test("names are found, and ambiguous ones are told with their ids", async (t) => {
  const { server, cloud } = await world(t);
  const twin = anInstance({ id: "vm-zzzzzzzzzzzzzzzzzzzz" });
  server.on(`GET ${instances}/${id}`, { body: anInstance() });
  server.on(
    `GET ${instances}`,
    page([anInstance()]),
    page([anInstance(), twin]),
    page([]),
    page([anInstance({ name: id })]),
  );
  t.equal((await cloud.instances.find(id)).id, id);
  t.equal((await cloud.instances.find("web")).id, id);
  await t.rejects(cloud.instances.find("web"), {
    code: "conflict",
    reason: "AMBIGUOUS_NAME",
    detail: { ids: [id, twin.id] },
    message: new RegExp(`${id}, ${twin.id}`),
  });
  await t.rejects(cloud.instances.find("nobody"), { code: "notFound", message: /no instance "nobody"/ });
  server.on(`GET ${instances}/${id}`, problem(404, "notFound", "NOT_FOUND", "no"));
  t.equal((await cloud.instances.find(id)).name, id, "a name may look like an id");
});

await t.test("conditions, merge patches and deletion go out as the API wants them", async (t) => {
  const { server, cloud } = await world(t);
  server.on(`GET ${instances}/${id}`, { headers: { etag: '"7"' }, body: anInstance() });
  const { etag } = await cloud.instances.getWithETag(id);
  server.on(`PATCH ${instances}/${id}`, { body: anInstance() });
  await cloud.instances.update(id, { labels: { tier: null }, spec: { cpus: 4 } }, { ifMatch: etag });
  const [patched] = server.askedOf(`PATCH ${instances}/${id}`);
  t.equal(patched?.headers["if-match"], '"7"');
  t.equal(patched?.headers["idempotency-key"], undefined);
  t.same(patched?.body, { labels: { tier: null }, spec: { cpus: 4 } });
  server.on(
    `DELETE ${instances}/${id}`,
    { status: 202, body: anInstance({ phase: "deleting" }) },
    { status: 204 },
  );
  t.equal((await cloud.instances.delete(id))?.phase, "deleting");
  t.equal(await cloud.instances.delete(id), undefined);
});

await t.test("what single kinds offer", async (t) => {
  const { server, cloud } = await world(t);
  server.on(`GET ${instances}/${id}/console/log`, {
    headers: { "content-type": "text/plain", "x-console-offset": "90", "x-console-end": "120" },
    body: "login:",
  });
  t.same(await cloud.instances.consoleLog(id, { limit: 6 }), { text: "login:", offset: 90, end: 120 });
  server.on("PUT /skerry/v1/images/img-1/content", ({ body, headers }) => ({
    body: { sent: body, type: headers["content-type"] },
  }));
  const sent = await cloud.images.upload("img-1", new TextEncoder().encode("QFI"));
  t.same(sent, { sent: "QFI", type: "application/octet-stream" });
  server.on("POST /skerry/v1/enrolment-tokens", { status: 201, body: { token: "tok-1.secret.pin" } });
  t.equal((await cloud.enrolmentTokens.issue({ name: "n", spec: {} })).token, "tok-1.secret.pin");
  server.on("POST /skerry/v1/hosts/certificate", {
    status: 201,
    body: { certificate: "C", authorities: "A" },
  });
  t.same(await cloud.hosts.issueCertificate("CSR"), { certificate: "C", authorities: "A" });
  const start = new Date("2026-01-01T00:00:00Z");
  server.on(`GET ${instances}/${id}/metrics`, ({ query }) => ({ body: { start: query.get("start_time") } }));
  t.match(await cloud.instances.metrics(id, { start }), { start: "2026-01-01T00:00:00.000Z" });
});

await t.test(
  "a login renews itself: before it expires, when it is refused, and once for all who ask",
  async (t) => {
    const { server } = await world(t);
    const tokens = (name: string, seconds: number) => ({
      body: {
        access_token: name,
        refresh_token: `${name}-refresh`,
        expires_in: seconds,
        token_type: "Bearer",
      },
    });
    const whoami = { body: { id: "usr-1", username: "admin", kind: "user", project: "root", role: "admin" } };
    server.on("POST /v1/auth/login", tokens("first", 10));
    server.on("POST /v1/auth/refresh", tokens("second", 3600), tokens("third", 3600));
    server.on("GET /skerry/v1/whoami", ({ headers }) =>
      headers.authorization === "Bearer first" ? problem(401, "unauthenticated", "EXPIRED", "no") : whoami,
    );
    const saved: Tokens[] = [];
    const tokenStore = {
      load: () => Promise.resolve(saved.at(-1)),
      save: (each: Tokens) => Promise.resolve(void saved.push(each)),
    };
    const cloud = new Skerry({ url: server.url, username: "admin", password: "pw", tokenStore });
    await Promise.all([cloud.whoami(), cloud.whoami(), cloud.whoami()]);
    t.equal(server.askedOf("POST /v1/auth/login").length, 1, "three askers, one login");
    t.same(server.askedOf("POST /v1/auth/login")[0]?.body, { username: "admin", password: "pw" });
    t.same(
      saved.map((each) => each.accessToken),
      ["first", "second"],
      "the first was as good as expired",
    );
    server.on("GET /skerry/v1/whoami", ({ headers }) =>
      headers.authorization === "Bearer second" ? problem(401, "unauthenticated", "REVOKED", "no") : whoami,
    );
    await cloud.whoami();
    t.equal(saved.at(-1)?.accessToken, "third");
    t.same(server.askedOf("POST /v1/auth/refresh").at(-1)?.body, { refresh_token: "second-refresh" });

    server.on("GET /skerry/v1/whoami", ({ headers }) =>
      headers.authorization === "Bearer third" ? problem(401, "unauthenticated", "REVOKED", "no") : whoami,
    );
    server.on("POST /v1/auth/refresh", problem(401, "unauthenticated", "REFRESH_REUSED", "no"));
    server.on("POST /v1/auth/login", tokens("fourth", 3600));
    await cloud.whoami();
    t.equal(saved.at(-1)?.accessToken, "fourth", "an ended login is begun again with the password");

    server.on("GET /skerry/v1/whoami", problem(401, "unauthenticated", "REVOKED", "no"));
    const other: Tokens = { accessToken: "x", refreshToken: "y", expiresAt: Date.now() + 3600_000 };
    const load = () => Promise.resolve(other);
    const without = new Skerry({ url: server.url, tokenStore: { ...tokenStore, load } });
    await t.rejects(without.whoami(), { code: "unauthenticated", reason: "REFRESH_REUSED" });
  },
);

await t.test("tokens that another process has renewed are taken over", async (t) => {
  const { server } = await world(t);
  const expiresAt = Date.now() + 3600_000;
  const stored: Tokens[] = [
    { accessToken: "old", refreshToken: "used", expiresAt },
    { accessToken: "new", refreshToken: "fresh", expiresAt },
  ];
  server.on("GET /skerry/v1/whoami", ({ headers }) =>
    headers.authorization === "Bearer old"
      ? problem(401, "unauthenticated", "REVOKED", "no")
      : { body: { id: "usr-1" } },
  );
  const tokenStore = { load: () => Promise.resolve(stored.shift()), save: () => Promise.resolve() };
  const cloud = new Skerry({ url: server.url, tokenStore });
  t.equal((await cloud.whoami()).id, "usr-1");
  t.equal(server.askedOf("POST /v1/auth/refresh").length, 0, "the old refresh token was left alone");
});

/** The native API over HTTP: resources and what may be asked along with them, from ETags to watches. */
import t from "tap";
import { newId } from "#kernel/id.ts";
import {
  caller,
  createInstance,
  hostId,
  reportRunning,
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

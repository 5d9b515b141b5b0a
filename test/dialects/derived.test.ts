/** What derives from kinds and tables, against the real server: the SDK's clients, the page, the index of names. */
import t from "tap";
import { kinds } from "#cp/resources/kinds.ts";
import { isFault } from "#kernel/fault.ts";
import { Skerry } from "#sdk/index.ts";
import { startApi } from "#test/support/api-world.ts";

const world = await startApi(t);
const cloud = new Skerry({ url: world.url, token: world.pair.access_token });

void t.test("one thing through every client", async (t) => {
  const made = await cloud.atonix.createInstance({ name: "web", image_id: "micro", flavor: "m1.small" });
  const { instance_id: id, tags } = made.data;
  t.same(tags, []);
  t.equal((await cloud.services.getInstance(id)).name, "web");
  const vm = await cloud.novacron.getVm(id);
  t.match(vm, { name: "web", status: "pending" });
  const { resource, etag } = await cloud.collection("instances").getWithETag(vm.id);
  t.equal(resource.spec.flavor, "m1.small");

  await cloud.novacron.updateVm(id, { tags: { tier: "front" } }, { ifMatch: etag });
  const stale = await cloud.novacron.updateVm(id, { tags: {} }, { ifMatch: etag }).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  t.ok(isFault(stale, "stale"), "an ETag is good once");
  const { data, pagination } = await cloud.atonix.listInstances({ tag: "tier", limit: 1 });
  t.same(
    data.map(({ name }) => name),
    ["web"],
  );
  t.same(pagination, { limit: 1, offset: 0, total: 1 });

  const key = { idempotencyKey: "one-and-the-same" };
  const [first, again] = [
    await cloud.atonix.createKeyPair({ name: "mine" }, key),
    await cloud.atonix.createKeyPair({ name: "mine" }, key),
  ];
  t.equal(again.data.key_pair_id, first.data.key_pair_id, "asked twice, made once");
  const refused = await cloud.services.getFlavor("no-such").catch((thrown: unknown) => thrown);
  t.ok(isFault(refused, "notFound"));
});

void t.test("the page of the documents is served to anyone", async (t) => {
  for (const path of ["/docs", "/docs/docs.js", "/docs/docs.css"]) {
    const response = await fetch(world.url + path);
    t.equal(response.status, 200, path);
    t.match(response.headers.get("content-security-policy"), /^default-src 'none'/);
    t.ok((await response.text()).length > 500);
  }
});

void t.test("the database keeps the names unique of which a kind says so", async (t) => {
  const indexes = await world.database.query<{ indexdef: string }>(
    "select indexdef from pg_indexes where tablename = 'resource' and indexname in ('resource_unique_name', 'resource_directory_name')",
  );
  const kept = indexes.flatMap(({ indexdef }) =>
    [...indexdef.matchAll(/'(\w+)'::text/g)].map(([, kind]) => kind),
  );
  t.strictSame(
    [...new Set(kept)].sort(),
    kinds.flatMap((kind) => (kind.uniqueNames ? [kind.kind] : [])).sort(),
  );
});

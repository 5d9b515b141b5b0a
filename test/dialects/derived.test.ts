/** What derives from kinds and tables, against the real server: the SDK's clients, the page, the index of names. */
import t from "tap";
import { ResourceService } from "#cp/app/resource-service.ts";
import { group } from "#cp/resources/group/group.resource.ts";
import { kinds } from "#cp/resources/kinds.ts";
import { systemPrincipal } from "#kernel/ctx.ts";
import { isFault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { Skerry } from "#sdk/index.ts";
import { startApi } from "#test/support/api-world.ts";
import { reasonOf } from "#test/support/reason-of.ts";

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

void t.test("what a kind says of itself holds", async (t) => {
  for (const { kind, plural, access, example, references, immutable } of kinds) {
    for (const { field, copied } of Object.values(references)) {
      t.ok(copied ?? immutable.includes(field), `${kind}: ${field} refers to the same for ever`);
    }
    if (!access.create || !example) continue;
    const { name, spec } = example;
    const { status, body } = await world.call("POST", `/skerry/v1/${plural}`, { name, spec });
    // Some name an image or a place that this cloud has not; they are told which there are.
    const known = status === 400 && "known" in (body["details"] as object);
    const fine = status === 201 || body["reason"] === "NAME_TAKEN" || known;
    t.ok(fine, `${kind}: its example, ${String(status)} ${String(body["detail"])}`);
  }
});

void t.test("a kind withholds fields whatever they are when nobody gives them", async (t) => {
  const { database, events } = world;
  const resources = new ResourceService({ database, events, onChange: () => undefined });
  const signal = AbortSignal.timeout(60_000);
  const ctx = { principal: systemPrincipal, requestId: "r", log: silentLogger, now: Date.now, signal };
  const kind = { ...group, withheld: ["description"] };
  const make = (name: string, spec: object) =>
    reasonOf(
      resources.create(
        ctx,
        kind,
        { name, spec },
        { respond: () => ({ status: 201, headers: {}, body: null }) },
      ),
    );
  t.equal(await make("night", { role: "viewer" }), undefined, "its default is an empty text");
  t.equal(await make("day", { description: "" }), "VALIDATION_ERROR");
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

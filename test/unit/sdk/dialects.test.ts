/** The clients of the dialects, and what the SDK may need to run in a browser. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import t from "tap";
import ts from "typescript";
import { root } from "#cp/local/programs.ts";
import { isFault } from "#kernel/fault.ts";
import { Skerry } from "#sdk/index.ts";
import { dialects } from "#sdk/dialects/generated.ts";
import { generateDialects, generatedDialectsPath } from "#test/support/generate-dialects.ts";
import { ScriptedCloud } from "#test/support/scripted-cloud.ts";

await t.test("the clients are those of the documents", async (t) => {
  const hint = "run: node --conditions=development --import=tsx test/support/generate-sdk.ts";
  t.equal(await readFile(generatedDialectsPath, "utf8"), await generateDialects(), hint);
});

await t.test("an operation takes what its path holds, then its query or its body", async (t) => {
  await using cloud = await ScriptedCloud.start();
  const { atonix, services, novacron } = new Skerry({ url: cloud.url, token: "sk_1" });
  const list = { success: true, data: [], pagination: { limit: 20, offset: 0, total: 0 }, meta: {} };
  cloud
    .on("GET /v1/compute/instances", { body: list })
    .on("PATCH /v1/vms/vm-1%2F2", { body: { id: "vm-1" } })
    .on("POST /api/v1/services/instances/i-1/reboot/", { status: 202, body: { instance_id: "i-1" } })
    .on("POST /v1/auth/logout", { status: 204 });

  const { pagination } = await atonix.listInstances({ tag: "web", limit: 5 });
  t.same(pagination, list.pagination);
  t.equal(cloud.asked[0]?.query.toString(), "tag=web&limit=5");
  t.equal(cloud.asked[0]?.headers.authorization, "Bearer sk_1");

  await novacron.updateVm("vm-1/2", { cpu: 2 }, { ifMatch: '"7"' });
  t.same(cloud.asked[1]?.body, { cpu: 2 });
  t.equal(cloud.asked[1]?.headers["if-match"], '"7"');

  await services.rebootInstance("i-1", { idempotencyKey: "once" });
  t.equal(cloud.asked[2]?.headers["idempotency-key"], "once");
  t.equal(await novacron.logout({}), undefined, "no body, nothing");
});

await t.test("a busy cloud is asked again with the same key; faults are faults", async (t) => {
  await using cloud = await ScriptedCloud.start();
  const { atonix } = new Skerry({ url: cloud.url, token: "sk_1" });
  const busy = { status: 503, headers: { "retry-after": "0" }, body: {} };
  cloud.on("POST /v1/compute/key-pairs", busy, { status: 201, body: { success: true, data: {}, meta: {} } });
  t.ok((await atonix.createKeyPair({ name: "mine" })).success);
  const [first, second] = cloud.askedOf("POST /v1/compute/key-pairs");
  t.match(first?.headers["idempotency-key"], /^[0-9a-f]{32}$/);
  t.equal(second?.headers["idempotency-key"], first?.headers["idempotency-key"]);
  const fault = await atonix.getFlavor("m1.none").then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  t.ok(isFault(fault, "notFound"));
});

await t.test("every operation has a method of its own", async (t) => {
  const cloud = new Skerry({ url: "http://127.0.0.1:1" });
  for (const [name, operations] of Object.entries(dialects)) {
    const client = cloud[name as keyof typeof dialects];
    t.strictSame(Object.keys(client), Object.keys(operations), name);
  }
});

await t.test("what a browser loads asks for nothing that it does not have", async (t) => {
  const files = await filesFrom("sdk/index.ts");
  t.ok(files.has("sdk/transport.ts") && files.has("proto/kernel/fault.ts"), "the graph was followed");
  for (const [name, { packages, text }] of files) {
    if (name === "sdk/socket.ts") continue;
    t.strictSame(packages, [], name);
    const code = text.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
    t.notMatch(code, /\b(process|Buffer|require|__dirname)\b(?=[.(])/, `${name} uses no global of Node`);
  }
  // Where there is no document, and not before a console is opened, `ws` takes the place of the browser's own.
  const socket = files.get("sdk/socket.ts");
  t.strictSame(socket?.packages, ["ws"]);
  t.match(socket?.text, /await import\("ws"\)/);
});

interface Loaded {
  readonly packages: readonly string[];
  readonly text: string;
}

/** The file and all that it leads to. */
async function filesFrom(entry: string): Promise<ReadonlyMap<string, Loaded>> {
  const found = new Map<string, Loaded>();
  const waiting = [entry];
  for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
    if (found.has(name)) continue;
    const text = await readFile(path.join(root, name), "utf8");
    // What is imported for its types alone is gone when it runs.
    const code = text.replace(/^import type [^;]*;$/gm, "");
    const imports = ts.preProcessFile(code).importedFiles.map(({ fileName }) => fileName);
    const isOurs = (specifier: string) => /^\.|^#kernel\//.test(specifier);
    const folder = path.posix.dirname(name);
    for (const specifier of imports.filter(isOurs)) {
      const kernel = specifier.startsWith("#") && specifier.replace("#kernel/", "proto/kernel/");
      waiting.push(kernel || path.posix.join(folder, specifier));
    }
    found.set(name, { packages: imports.filter((specifier) => !isOurs(specifier)), text });
  }
  return found;
}

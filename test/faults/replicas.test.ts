/**
 * Two control planes on one database, the hosts connected to one of them: a client need not know which. When
 * the one with the hosts dies, the other takes over.
 */
import { join } from "node:path";
import t from "tap";
import { nodeProgram, root } from "#cp/local/programs.ts";
import type { Skerry } from "#sdk/client.ts";
import { startCloud } from "#test/support/cloud.ts";
import { pickPort } from "#test/support/ports.ts";
import { Program } from "#test/support/program.ts";
import { until } from "#test/support/until.ts";
import {
  clientOf,
  expectedState,
  observeState,
  openDatabase,
  smallSpec,
  untilQuiet,
  type Wanted,
} from "./faults-world.ts";

const [port, gatewayPort] = [await pickPort(), await pickPort()];
const settings: { SKERRY_AGENT_GATEWAY?: string } = {};
const folder = t.testdir({});
// What one replica seals, the other opens.
const SKERRY_SECRET_KEY_FILE = join(folder, "secret.key");
const cloud = await startCloud(t, {
  controlPlaneEnv: { SKERRY_OVERCOMMIT_CPUS: "100", SKERRY_SWEEP_MS: "1000", SKERRY_SECRET_KEY_FILE },
  agentEnv: settings,
  // Read before the agents are made: they learn of both gateways, the first of which is there.
  gatewayPort: async (first) => {
    settings.SKERRY_AGENT_GATEWAY = `127.0.0.1:${String(first)},127.0.0.1:${String(gatewayPort)}`;
    return first;
  },
});
const second = new Program({
  name: "the second control plane",
  argv: nodeProgram("control-plane/main"),
  env: {
    PATH: process.env["PATH"] ?? "",
    DATABASE_URL: cloud.databaseUrl,
    PORT: String(port),
    SKERRY_GATEWAY_PORT: String(gatewayPort),
    SKERRY_MICRO_DIR: process.env["SKERRY_MICRO_DIR"] ?? join(root, "node_modules/.cache/skerry/micro"),
    SKERRY_OVERCOMMIT_CPUS: "100",
    SKERRY_SWEEP_MS: "1000",
    SKERRY_SECRET_KEY_FILE,
  },
  logFile: join(folder, "second.log"),
  announcesReady: true,
});
t.teardown(() => second.stop());
await second.start();

const secondUrl = `http://127.0.0.1:${String(port)}`;
const one = clientOf(cloud);
const two = clientOf({ url: secondUrl, apiKey: cloud.apiKey });
const database = openDatabase(t, cloud);
const wanted = new Map<string, Wanted>();

async function create(client: Skerry, name: string): Promise<string> {
  const { id } = await client.instances.create({ name, spec: smallSpec });
  wanted.set(id, { id, name, cpus: 1, power: "on" });
  return id;
}

/** The replicas that hold connections, by URL. */
async function holders(): Promise<string[]> {
  const rows = await database.query<{ url: string }>(
    "select distinct r.url from host_session s join replica r on r.id = s.replica_id",
  );
  return rows.map(({ url }) => url);
}

/** Types into the console and gives what came, up to the echo of it. */
async function converse(client: Skerry, id: string, line: string): Promise<string> {
  const console = client.instances.console(id, {
    offset: 0,
    signal: AbortSignal.timeout(60_000),
    onConnect: () => void console.write(line),
  });
  let seen = "";
  for await (const chunk of console) {
    seen += Buffer.from(chunk).toString();
    if (seen.includes(line)) break;
  }
  return seen;
}

await t.test("any request works at either", async (t) => {
  t.same(await holders(), [cloud.url], "the first has all the hosts");
  const ids = [await create(one, "asked-one"), await create(two, "asked-two")];
  for (const id of ids) {
    for (const client of [one, two]) {
      const running = await client.instances.waitFor(id, { phases: ["running"], timeoutMs: 60_000 });
      t.equal(running?.phase, "running");
    }
  }
  const [id = ""] = ids;
  for (const [client, other] of [
    [one, two],
    [two, one],
  ] as const) {
    await client.instances.stop(id);
    await other.instances.waitFor(id, { phases: ["stopped"], timeoutMs: 60_000 });
    await other.instances.start(id);
    await client.instances.waitFor(id, { phases: ["running"], timeoutMs: 60_000 });
    t.match((await client.instances.consoleLog(id)).text, /fake machine \S+ started/, "the console's log");
    t.match(await converse(client, id, "hello"), /started[^]*hello/, "the console itself");
  }
  const waited = await fetch(`${secondUrl}/skerry/v1/instances/${id}?wait=5`, {
    headers: { authorization: `Token ${cloud.apiKey}` },
  });
  t.equal(waited.status, 200);
});

await t.test("one key, asked at both at once, makes one instance", async (t) => {
  const ask = (url: string) =>
    fetch(`${url}/skerry/v1/instances`, {
      method: "POST",
      headers: {
        authorization: `Token ${cloud.apiKey}`,
        "content-type": "application/json",
        "idempotency-key": "the-same",
      },
      body: JSON.stringify({ name: "only-once", spec: smallSpec }),
    });
  const answers = await Promise.all([ask(cloud.url), ask(secondUrl)]);
  t.same(
    answers.map(({ status }) => status),
    [201, 201],
  );
  const [first, again] = (await Promise.all(answers.map((answer) => answer.json()))) as { id: string }[];
  t.equal(again?.id, first?.id);
  const id = first?.id ?? "";
  wanted.set(id, { id, name: "only-once", cpus: 1, power: "on" });
});

await t.test("the one with the hosts dies: the other takes over", async (t) => {
  const before = [...wanted.keys()];
  const pending = await create(one, "just-before");
  await cloud.controlPlane.kill();
  const [stopped = ""] = before;
  await two.instances.stop(stopped);
  wanted.set(stopped, { ...wanted.get(stopped)!, power: "off" });
  const asked = await create(two, "just-after");

  await two.instances.waitFor(stopped, { phases: ["stopped"], timeoutMs: 60_000 });
  for (const id of [pending, asked]) {
    await two.instances.waitFor(id, { phases: ["running"], timeoutMs: 60_000 });
  }
  await until(async () => (await holders()).join() === secondUrl);
  t.match(await converse(two, asked, "taken over"), /taken over/);
  await untilQuiet(database);
  const door = { url: secondUrl, apiKey: cloud.apiKey, agents: cloud.agents };
  t.same(await observeState(door, database), expectedState([...wanted.values()]));
});

/**
 * Parts that are away: the control plane, the network between it and a host, the database. Machines run on,
 * clients are told to come back, and when the part is back the cloud mends itself.
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { EmbeddedPostgres } from "#cp/local/postgres.ts";
import { MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { startCloud } from "#test/support/cloud.ts";
import { StallingProxy } from "#test/support/stalling-proxy.ts";
import { until } from "#test/support/until.ts";
import { Customer } from "./customer.ts";
import {
  agentClients,
  clientOf,
  expectedState,
  observeState,
  openDatabase,
  seededRandom,
  smallSpec,
  untilQuiet,
  type Wanted,
} from "./faults-world.ts";

const seed = Number(process.env["SKERRY_TEST_SEED"] ?? Date.now() % 1_000_000);
t.comment(`seed ${String(seed)}: SKERRY_TEST_SEED repeats it`);

const directory = await mkdtemp(join(tmpdir(), "ska-"));
const knobsFile = join(directory, "knobs.json");
await writeFile(knobsFile, "{}");
/** A server of its own, that keeps what it has acknowledged. */
const startPostgres = () =>
  EmbeddedPostgres.start({
    directory: join(directory, "pg"),
    logFile: join(directory, "postgres.log"),
    log: silentLogger,
    signal: AbortSignal.timeout(120_000),
  });
let postgres = await startPostgres();
let proxy: StallingProxy | undefined;
t.teardown(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await postgres.stop();
  await rm(directory, { recursive: true, force: true });
});

const cloud = await startCloud(t, {
  databaseUrl: postgres.url,
  controlPlaneEnv: { SKERRY_OVERCOMMIT_CPUS: "100", SKERRY_GATEWAY_KEEPALIVE_MS: "2000" },
  agentEnv: { SKERRY_AGENT_FAKE_KNOBS_FILE: knobsFile, SKERRY_AGENT_KEEP_ALIVE_SECONDS: "2" },
  async gatewayPort(port) {
    proxy = await StallingProxy.start({ port });
    return proxy.port;
  },
});
const database = openDatabase(t, cloud);
const { instances, hosts } = clientOf(cloud);
const wanted: Wanted[] = [];

async function create(
  name: string,
  policy: "always" | "on-failure" | "never" = "on-failure",
): Promise<string> {
  const { id } = await instances.create({ name, spec: { ...smallSpec, restart_policy: policy } });
  await instances.waitFor(id, { phases: ["running"] });
  wanted.push({ id, name, cpus: 1, power: "on" });
  return id;
}
const quietAndRight = async (also: readonly Wanted[] = []) => {
  await cloud.untilHosts("online");
  await untilQuiet(database);
  return { found: await observeState(cloud, database), expected: expectedState([...wanted, ...also]) };
};

await t.test("without a control plane hosts go on by themselves, and tell later", async (t) => {
  const ids = [await create("one", "always"), await create("two"), await create("three")];
  const [crashing = ""] = ids;
  const before = await Promise.all(ids.map((id) => instances.get(id)));
  const clients = [...(await agentClients(cloud)).values()];
  const machines = async () =>
    (await Promise.all(clients.map((c) => c.machines.listMachines({})))).flatMap((l) => l.machines);
  const hostOf = async (id: string) =>
    (await hosts.get((await instances.get(id)).status?.host_id ?? "")).name;
  const crashHost = await hostOf(crashing);
  await cloud.controlPlane.stop();

  await writeFile(knobsFile, JSON.stringify({ crash: [crashing] }));
  await until(async () => (await machines()).some(({ id, crashes }) => id === crashing && crashes === 1n));
  await until(
    async () =>
      (await machines()).filter(({ state }) => state === MachineState.RUNNING).length === ids.length,
  );
  t.pass("what crashed was started again");

  await writeFile(knobsFile, "{}");
  // A clean stop turns the machines off, as a reboot of the host does.
  const rebooted = cloud.agents.find(({ host }) => host.name === crashHost)!;
  await rebooted.program.stop();
  const file = join(rebooted.dataDirectory, "machines", crashing, "fake.json");
  t.notMatch(await readFile(file, "utf8"), /startedAtMs/, "the machine is off");
  await rebooted.program.start();
  await until(async () => (await readFile(file, "utf8")).includes("startedAtMs"));
  t.pass("it was started from the ledger, with nobody to ask");

  await cloud.controlPlane.start();
  await until(async () => (await instances.get(crashing)).status?.crashes === 1);
  const { found, expected } = await quietAndRight();
  t.same(found, expected);
  const after = await Promise.all(ids.map((id) => instances.get(id)));
  t.not(after[0]?.status?.started_at, before[0]?.status?.started_at, "the new start was told");
  for (const [index, instance] of after.entries()) {
    if (instance.status?.host_id === after[0]?.status?.host_id) continue;
    t.equal(instance.status?.started_at, before[index]?.status?.started_at, "the others were left alone");
  }
});

await t.test("a connection that is dead but open is noticed and replaced", async (t) => {
  const id = await create("behind-the-proxy");
  proxy?.stall();
  await instances.stop(id);
  await cloud.untilHosts("offline");
  t.equal((await instances.get(id)).phase, "stopping", "nothing is claimed that the host has not said");
  proxy?.resume();
  await cloud.untilHosts("online");
  await instances.waitFor(id, { phases: ["stopped"], timeoutMs: 60_000 });
  await instances.start(id);
  await instances.waitFor(id, { phases: ["running"], timeoutMs: 60_000 });
  const { found, expected } = await quietAndRight();
  t.same(found, expected, "commands arrive again");
});

await t.test("PostgreSQL restarts under load: come back later, and nothing is lost", async (t) => {
  const clients = Array.from(
    { length: 6 },
    (_, index) => new Customer(cloud, `pg${String(index)}`, seededRandom(seed + index)),
  );
  const answered = () => clients.reduce((sum, client) => sum + client.answered, 0);
  const refusals = () => clients.flatMap((client) => client.refusals);
  const closing = new AbortController();
  const done = Promise.all(clients.map((client) => client.run(closing.signal)));
  done.catch(() => closing.abort());

  for (const how of ["SIGINT", "SIGKILL"] as const) {
    const enough = answered() + 20;
    await until(() => answered() >= enough || closing.signal.aborted);
    const refusedBefore = refusals().length;
    postgres.child.kill(how);
    await postgres.child.exited;
    await until(() => refusals().length >= refusedBefore + clients.length || closing.signal.aborted);
    const dialect = await cloud.request<{ error?: { code?: string; timestamp?: string } }>("GET", "/v1/vms");
    t.equal(dialect.status, 503, `${how}: the dialect says so too`);
    t.match(dialect.headers.get("retry-after"), /^\d+$/);
    t.match(dialect.body, { error: { code: String, message: String, details: {}, timestamp: String } });
    t.equal((await cloud.request("GET", "/readyz")).status, 503, "not ready");
    postgres = await startPostgres();
  }
  const last = answered() + 20;
  await until(() => answered() >= last || closing.signal.aborted);
  closing.abort();
  await done; // throws if anybody was told anything but 2xx or 503

  for (const { status, headers, body } of refusals()) {
    if (status !== 503 || !/^\d+$/.test(headers.get("retry-after") ?? "")) {
      t.fail("a refusal that does not say when to come back", { status, body });
    }
  }
  t.match(refusals()[0]?.body, { status: 503, code: "unavailable", retryable: true, reason: String });
  t.ok(cloud.controlPlane.isRunning, "the same process goes on");
  const { found, expected } = await quietAndRight(clients.flatMap((client) => client.wanted ?? []));
  t.same(found, expected);
});

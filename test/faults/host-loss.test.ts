/**
 * Hosts that are cut off, one way and both, for longer than their lease: what may start elsewhere does, never while
 * the old one runs, and afterwards there is exactly one. What waits for its host runs on through all of it. An agent
 * that is stopped is not a dead host, and a control plane that was away takes nobody for lost.
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import { parseTopology } from "#cp/local/topology.ts";
import { startCloud } from "#test/support/cloud.ts";
import { PartitionNetwork, type Direction } from "#test/support/partition-network.ts";
import { pickPort } from "#test/support/ports.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { TurnedClock } from "#test/support/turned-clock.ts";
import { until } from "#test/support/until.ts";
import { Identity } from "#agent/control/identity.ts";
import { createControlClient } from "#agent/control/control-client.ts";
import { openControl } from "#agent/control/link.ts";
import { ControlSession } from "#agent/control/session.ts";
import { silentLogger } from "#kernel/log.ts";
import { clientOf, openDatabase, seededRandom, smallSpec } from "./faults-world.ts";

const seed = Number(process.env["SKERRY_TEST_SEED"] ?? Date.now() % 1_000_000);
t.comment(`seed ${String(seed)}: SKERRY_TEST_SEED repeats it`);
const random = seededRandom(seed);
const all = process.env["SKERRY_FAULTS"] === "all";

const names = ["site-1", "site-2", "site-3"] as const;
const directory = await mkdtemp(join(tmpdir(), "skerry-loss-"));
t.teardown(() => rm(directory, { recursive: true, force: true }));
const knobsFile = join(directory, "knobs.json");
await writeFile(knobsFile, "{}");
const network = await PartitionNetwork.open(t);
for (const name of names) await network.addHost(name);
const gatewayPort = await pickPort();
const clocks = { controlPlane: await TurnedClock.open(t), agents: await TurnedClock.open(t) };
const cloud = await startCloud(t, {
  agents: parseTopology(
    JSON.stringify({
      hosts: names.map((name) => ({ name, provider: name, region: name, driver: "fake", share: 0.3 })),
    }),
  ).hosts,
  controlPlaneEnv: {
    ...clocks.controlPlane.env,
    SKERRY_GATEWAY_LISTEN: network.address,
    SKERRY_GATEWAY_PORT: String(gatewayPort),
    SKERRY_GATEWAY_KEEPALIVE_MS: "2000",
    SKERRY_OVERCOMMIT_CPUS: "100",
    SKERRY_LEASE_SECONDS: "1.5",
    SKERRY_FENCE_SECONDS: "1",
  },
  agentEnv: {
    ...clocks.agents.env,
    SKERRY_AGENT_KEEP_ALIVE_SECONDS: "2",
    SKERRY_AGENT_FAKE_KNOBS_FILE: knobsFile,
  },
  placeAgent: ({ name }, program) => network.place(name, gatewayPort, program),
});
const { instances, hosts, migrations } = clientOf(cloud);

const hostNamed = async (name: string) => (await hosts.list().all()).find((host) => host.name === name)!;
const hostNameOf = async (id: string) => {
  const { placement } = await instances.get(id);
  return (await hosts.list().all()).find((host) => host.id === placement?.host_id)?.name ?? "";
};

const database = openDatabase(t, cloud);
/** A host that nobody else has reached while it was well is never given up: what is cut has to have been reached before. */
async function untilReached(): Promise<void> {
  const unreached = "select 1 from host_session where reached is not true";
  await until(async () => (await database.query(unreached)).length === 0);
}

/** Where it runs, by the hosts' disks, which nothing can cut off. */
async function runsOn(id: string): Promise<string[]> {
  const found = await Promise.all(
    cloud.agents.map(async ({ host, dataDirectory }) => {
      const file = join(dataDirectory, "machines", id, "fake.json");
      const text = await readFile(file, "utf8").catch(() => ""); // not there, or just being replaced
      return text.includes('"startedAtMs"') ? [host.name] : [];
    }),
  );
  return found.flat();
}

/** Looks all the time how many copies run, and remembers the worst. */
function watchCopies(id: string) {
  const seen = { most: 0, least: Infinity };
  const stop = new AbortController();
  const done = until(
    async () => {
      const { length } = await runsOn(id);
      seen.most = Math.max(seen.most, length);
      seen.least = Math.min(seen.least, length);
      return stop.signal.aborted;
    },
    120_000,
    15,
  );
  return {
    async end() {
      stop.abort();
      await done;
      return seen;
    },
  };
}

async function create(
  name: string,
  on_host_loss: "wait" | "restart_elsewhere",
  host: string,
): Promise<string> {
  const spec = { ...smallSpec, on_host_loss };
  for (const other of names) if (other !== host) await hosts.cordon((await hostNamed(other)).id);
  const make = async () => {
    const { id } = await instances.create({ name, spec });
    await instances.waitFor(id, { phases: ["running"] });
    return id;
  };
  let id = await make();
  // Whoever chooses hears of a cordon a moment after it was answered.
  for (let again = 0; again < 3 && (await hostNameOf(id)) !== host; again++) {
    await instances.delete(id);
    await instances.waitFor(id);
    id = await make();
  }
  for (const other of names) if (other !== host) await hosts.uncordon((await hostNamed(other)).id);
  return id;
}

const bound = await create("bound", "restart_elsewhere", "site-1");
async function untilElsewhere(hostId: string): Promise<void> {
  await until(async () => {
    const { phase, placement } = await instances.get(bound);
    return phase === "running" && placement?.host_id !== hostId;
  }).catch(async (cause: unknown) => {
    const told = { all: await hosts.list().all(), bound: await instances.get(bound) };
    throw new Error(`it does not run elsewhere: ${JSON.stringify(told)}`, { cause });
  });
}
const patient = await create("patient", "wait", "site-1");
const patientSince = (await instances.get(patient)).status?.started_at;

const cuts: readonly { readonly direction: Direction; readonly from: "control-plane" | "all" }[] = [
  { direction: "both", from: "all" },
  { direction: "out", from: "control-plane" },
  { direction: "in", from: "control-plane" },
  { direction: "both", from: "control-plane" },
  { direction: "out", from: "all" },
  { direction: "in", from: "all" },
];
/** Those from everybody are over soonest. */
const quick = cuts.filter(({ from }) => from === "all");
const chosen = all ? cuts : [quick[Math.floor(random() * quick.length)]!];

for (const { direction, from } of chosen) {
  await t.test(`cut off from ${from}, ${direction}`, async (t) => {
    const before = await hostNameOf(bound);
    const { id: hostId } = await hostNamed(before);
    await untilReached();
    const copies = watchCopies(bound);
    await network.cut(before, direction, from);
    const cutAt = performance.now();
    await until(async () => (await hosts.get(hostId)).phase === "offline");
    const seenMs = performance.now() - cutAt;
    await untilElsewhere(hostId);
    const backMs = performance.now() - cutAt;
    t.equal((await hosts.get(hostId)).phase, "lost");
    t.comment(`seen after ${seenMs.toFixed(0)} ms, elsewhere after ${backMs.toFixed(0)} ms`);
    await network.heal(before);
    await until(async () => (await hosts.get(hostId)).phase === "online");
    const after = await hostNameOf(bound);
    t.same(await runsOn(bound), [after], "exactly one runs");
    t.not(after, before);
    const { most, least } = await copies.end();
    t.equal(most, 1, "never two");
    t.equal(least, 0, "and between the two, none");
    const { phase, status } = await instances.get(patient);
    t.match(
      { phase, since: status?.started_at },
      { phase: "running", since: patientSince },
      "who waits runs on",
    );
  });
}

await t.test("an agent that is stopped for longer than its lease is not a dead host", async (t) => {
  const name = await hostNameOf(bound);
  const { id: hostId } = await hostNamed(name);
  const agent = cloud.agents.find(({ host }) => host.name === name)!;
  agent.program.freeze(true);
  await until(async () => (await hosts.get(hostId)).status?.silence?.sighting === "unanswered");
  // Whatever happens to the network now, the machine may run there.
  await network.cut(name, "both", "all");
  const frozenAt = performance.now();
  await until(() => performance.now() - frozenAt > 3_000, 6_000);
  t.equal((await hosts.get(hostId)).phase, "offline", "not lost");
  t.equal(await hostNameOf(bound), name);
  await network.heal(name);
  agent.program.freeze(false);
  await until(async () => (await hosts.get(hostId)).phase === "online");
  await until(async () => (await runsOn(bound)).join() === name);
});

await t.test("a host that somebody is certain is dead", async (t) => {
  const name = await hostNameOf(bound);
  const { id: hostId } = await hostNamed(name);
  t.equal(await reasonOf(hosts.declareLost(hostId)), "HOST_HEARD", "not while it is heard of");
  const agent = cloud.agents.find(({ host }) => host.name === name)!;
  const { pid } = agent.program;
  await agent.program.kill();
  await until(async () => (await hosts.get(hostId)).status?.silence?.sighting === "refused");
  t.equal(await hostNameOf(bound), name, "its system is up, so its machines may run");
  t.equal((await hosts.declareLost(hostId)).phase, "lost");
  await untilElsewhere(hostId);
  t.equal((await instances.get(patient)).status?.started_at, patientSince, "what waits for it waits");
  await agent.program.start();
  t.not(agent.program.pid, pid);
  await until(async () => (await hosts.get(hostId)).phase === "online");
  t.same(await runsOn(bound), [await hostNameOf(bound)], "what was left of it there is gone");
});

await t.test("a control plane that was away for longer than the lease evicts nothing", async (t) => {
  const name = await hostNameOf(bound);
  await cloud.controlPlane.kill();
  await until(async () => (await runsOn(bound)).length === 0);
  t.same((await runsOn(patient)).length, 1, "who waits runs on");
  await cloud.controlPlane.start();
  await until(async () => (await runsOn(bound)).length === 1);
  await cloud.untilHosts("online", [name]);
  t.same(await runsOn(bound), [name], "where it was");
  t.equal((await instances.get(patient)).status?.started_at, patientSince);
});

const gateway = `${network.address}:${String(gatewayPort)}`;
const agentOf = (name: string) => cloud.agents.find(({ host }) => host.name === name)!;
const identityOf = (name: string) => Identity.open(join(agentOf(name).dataDirectory, "identity.pem"));

/** What an agent could ask that has the identity of this host. */
async function askAs(t: Test, name: string) {
  const { credentials: trust } = await identityOf(name);
  const options = { address: gateway, trust, keepAliveMs: 5_000 };
  const session = await openControl(options, AbortSignal.timeout(60_000));
  t.teardown(() => session.destroy());
  const client = createControlClient(session);
  return () => reasonOf(firstOf(client.fetchFile("0".repeat(64), 0, AbortSignal.timeout(60_000))));
}

const firstOf = (pieces: AsyncIterable<Uint8Array>) => pieces[Symbol.asyncIterator]().next();

/** What it could report in its agent's place. */
async function reportAs(t: Test, name: string) {
  const session = new ControlSession({
    ...{ identity: await identityOf(name), gateways: [gateway], keepAliveMs: 5_000, log: silentLogger },
    services: { routes: () => undefined },
  });
  const stop = new AbortController();
  const running = session.run(stop.signal);
  t.teardown(async () => {
    stop.abort();
    await running;
  });
  await until(() => session.state.status === "connected");
  return session;
}

await t.test("clocks that jump by an hour, on either side, stop nothing and make nobody lost", async (t) => {
  const hourMs = 3_600_000;
  await until(async () => (await instances.get(bound)).phase === "running");
  const startedAt = async () => {
    const both = await Promise.all([bound, patient].map((id) => instances.get(id)));
    return both.map(({ status }) => status?.started_at);
  };
  const before = await startedAt();
  const copies = watchCopies(bound);
  for (const jumpMs of [hourMs, -hourMs]) {
    await clocks.agents.set(jumpMs, names.length);
    await clocks.controlPlane.set(-jumpMs, 1);
    const jumpedAt = performance.now();
    const { id } = await instances.create({ name: "meanwhile", spec: smallSpec });
    await instances.waitFor(id, { phases: ["running"] });
    await instances.delete(id);
    const phases = new Set<string>();
    await until(
      async () => {
        for (const { phase } of await hosts.list().all()) phases.add(phase);
        return performance.now() - jumpedAt > 3_000; // longer than lease and fence
      },
      10_000,
      50,
    );
    t.notOk(phases.has("lost"), [...phases].join());
  }
  await clocks.agents.set(0, names.length);
  await clocks.controlPlane.set(0, 1);
  t.strictSame(await copies.end(), { most: 1, least: 1 }, "it ran all the time, once");
  t.strictSame(await startedAt(), before);
});

await t.test("an agent that lies changes nothing but what is known of its own host", async (t) => {
  const victim = await hostNameOf(bound);
  const liar = names.find((name) => name !== victim && name !== "site-1")!;
  const { id: liarId } = await hostNamed(liar);
  await until(async () => (await instances.get(bound)).phase === "running");
  const before = await instances.get(bound);
  const { program } = agentOf(liar);
  await program.kill();
  t.teardown(async () => {
    await program.start();
    await cloud.untilHosts("online", [liar]);
  });
  const session = await reportAs(t, liar);
  const seq = BigInt(Number.MAX_SAFE_INTEGER);
  const claim = {
    state: MachineState.STOPPED,
    seq,
    fence: { epoch: 1n << 40n, generation: 99n },
    leaseTerms: 1n,
  };
  await session.report(
    {
      sessionId: "liar",
      full: true,
      machines: [bound, patient, liarId, "vm-never-heard-of"].map((id) => ({ id, ...claim })),
      removed: [{ id: bound, seq: seq + 1n }],
      machineMetrics: [{ machineId: bound, cpuSeconds: 1e9 }],
      facts: {
        driver: "fake",
        listenAddress: "203.0.113.1:1",
        capacity: { cpus: 4_000_000_000, memoryBytes: 1n << 62n, diskBytes: 1n << 62n },
      },
    },
    AbortSignal.timeout(60_000),
  );
  const { status } = await hosts.get(liarId);
  t.same(
    [...(status?.unknown_machines ?? [])].sort(),
    [bound, patient, liarId, "vm-never-heard-of"].sort(),
    "flagged",
  );
  t.equal(status?.doubts?.length, 3, "what cannot be is told");
  t.equal(status?.capacity.cpus, 0, "and counts for nothing");
  t.same(await instances.get(bound), before);
  t.same(await runsOn(bound), [victim]);
});

await t.test(
  "a host is drained of what cannot move as it runs, and let in no more once it is removed",
  async (t) => {
    const name = await hostNameOf(patient);
    const { id } = await hostNamed(name);
    const ask = await askAs(t, name);
    t.equal(await ask(), "CONTENT_NOT_FOUND");
    t.equal(await reasonOf(hosts.delete(id)), "IN_USE", "not while machines are there");
    const others = names.filter((other) => other !== name);
    await until(async () =>
      (await Promise.all(others.map(hostNamed))).every(({ phase }) => phase === "online"),
    );
    const blocked = { call: "pre-copy", when: "before", times: 1, code: "conflict", reason: "MOVE_BLOCKED" };
    await writeFile(knobsFile, JSON.stringify({ failures: [blocked] }));
    await hosts.drain(id, { input: { cold: true } });
    await until(async () => (await hosts.remaining(id)).length === 0, 20_000).catch(
      async (fault: unknown) => {
        t.comment(
          JSON.stringify({ remaining: await hosts.remaining(id), moves: await migrations.list().all() }),
        );
        throw fault;
      },
    );
    await instances.waitFor(patient, { phases: ["running"] });
    const moved = async (how: { phase: string; type: string; reason?: string }) =>
      (await migrations.list().all()).some(
        ({ phase, status }) =>
          status?.source.host_id === id &&
          phase === how.phase &&
          status.type === how.type &&
          status.error?.reason === how.reason,
      );
    t.ok(await moved({ phase: "failed", type: "live", reason: "MOVE_BLOCKED" }), "as it ran it could not");
    await until(() => moved({ phase: "complete", type: "cold" })); // soon after the machine runs there
    await until(async () =>
      hosts.delete(id).then(
        () => true,
        () => false,
      ),
    );
    await until(async () =>
      hosts.get(id).then(
        () => false,
        () => true,
      ),
    );
    await until(async () => (await ask()) === "GATEWAY_NOT_CONNECTED"); // its connection is cut
    const again = await askAs(t, name);
    t.equal(await again(), "HOST_REMOVED");
  },
);

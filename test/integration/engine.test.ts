/**
 * The engine on a real database with real machine managers: what users ask for happens once, whatever
 * dies on the way.
 */
import t, { type Test } from "tap";
import { instance } from "#cp/resources/instance/instance.resource.ts";
import { leaseMs } from "#cp/engine/work.ts";
import { createInstance, quietly, testCtx, World, type Replica } from "#test/support/engine-world.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const GiB = 1024 ** 3;

async function worldOf(t: Test, hosts = 2): Promise<World> {
  const world = await World.start(await withDatabase(t), { hosts });
  t.teardown(() => world.stop());
  return world;
}

async function replicaOf(t: Test, world: World, options = {}): Promise<Replica> {
  const replica = await world.replica(options);
  t.teardown(() => replica.stop());
  return replica;
}

/** A commit that follows from an intent, as a user makes it; each is tried with a death after each commit. */
interface Scenario {
  readonly name: string;
  prepare(world: World, replica: Replica): Promise<string>;
  act(replica: Replica, id: string): Promise<void>;
  /** The phase that must be reached in the end; undefined: gone. */
  readonly ends: string | undefined;
}

const patch = (spec: object) => ({ spec });

const scenarios: readonly Scenario[] = [
  {
    name: "create",
    prepare: async (_world, { resources }) => createInstance(resources),
    act: async () => undefined,
    ends: "running",
  },
  {
    name: "stop",
    prepare: runningInstance,
    act: async ({ resources }, id) =>
      void (await resources.invoke(testCtx(), instance, id, "stop", {}, quietly)),
    ends: "stopped",
  },
  {
    name: "start",
    async prepare(world, replica) {
      const id = await createInstance(replica.resources, { power: "off" });
      await world.untilPhase(id, "stopped");
      return id;
    },
    act: async ({ resources }, id) =>
      void (await resources.invoke(testCtx(), instance, id, "start", {}, quietly)),
    ends: "running",
  },
  {
    name: "resize",
    prepare: runningInstance,
    act: async ({ resources }, id) =>
      void (await resources.update(testCtx(), instance, id, patch({ cpus: 2, memory_bytes: GiB }), quietly)),
    ends: "running",
  },
  {
    name: "delete",
    prepare: runningInstance,
    act: async ({ resources }, id) => void (await resources.delete(testCtx(), instance, id, quietly)),
    ends: undefined,
  },
];

async function runningInstance(world: World, { resources }: Replica): Promise<string> {
  const id = await createInstance(resources);
  await world.untilPhase(id, "running");
  return id;
}

/** More commits than any of these takes: the last runs end without a death and prove that all were tried. */
const deaths = 7;

for (const scenario of scenarios) {
  t.test(`${scenario.name}: a replica dies after each of its commits`, async (t) => {
    const world = await worldOf(t);
    const healthy = await world.replica();
    const prepared: string[] = [];
    for (let n = 0; n < deaths; n++) {
      // A create begins with the very first commit, so its instance is made while nobody works on it.
      if (scenario.name !== "create") prepared.push(await scenario.prepare(world, healthy));
    }
    await healthy.stop();

    for (let commits = 1; commits <= deaths; commits++) {
      const idle = await world.replica({ diesAfterCommits: Infinity, url: "http://api" });
      const ids = prepared.slice(commits - 1, commits);
      await idle.engine[Symbol.asyncDispose](); // it takes requests, and leaves the work to others
      if (scenario.name === "create") ids.push(await scenario.prepare(world, idle));
      const id = ids[0] ?? "";
      await scenario.act(idle, id);

      const mortal = await world.replica({ diesAfterCommits: commits });
      await Promise.race([mortal.died, world.untilPhase(id, scenario.ends).catch(() => undefined)]);
      await mortal.stop();
      const successor = await world.replica();
      await world.untilPhase(id, scenario.ends);
      t.strictSame(await world.lastingViolations(), [], `after ${String(commits)} commits`);
      await successor.stop();
      await idle.stop();
    }
  });
}

t.test("two replicas share the work and nothing is done twice at once", async (t) => {
  const world = await worldOf(t, 3);
  const one = await replicaOf(t, world, { url: "http://one" });
  const two = await replicaOf(t, world, { url: "http://two" });
  const ids = await Promise.all(
    Array.from({ length: 12 }, (_, n) =>
      createInstance((n % 2 ? one : two).resources, {}, `vm-${String(n)}`),
    ),
  );
  for (const id of ids) await world.untilPhase(id, "running");
  t.strictSame(await world.lastingViolations(), []);
  const used = await world.database.query<{ host_id: string; cpus: number }>(
    "select host_id, sum(cpus)::bigint as cpus from reservation group by 1",
  );
  t.ok(
    used.every(({ cpus }) => cpus <= 4),
    "no host promises more than it has",
  );
});

t.test("a reply that is lost after its effect does not double the effect", async (t) => {
  const world = await worldOf(t, 1);
  const replica = await replicaOf(t, world);
  const [host] = world.hosts;
  if (host) host.loseReplies = 2;
  const id = await createInstance(replica.resources);
  await world.untilPhase(id, "running");
  t.strictSame(await world.lastingViolations(), []);
});

t.test("a host that refuses is passed over, and the refusal leaves nothing behind", async (t) => {
  const world = await worldOf(t, 2);
  const [first, second] = world.hosts;
  const replica = await replicaOf(t, world);
  const refusal = {
    call: "ensure",
    when: "before",
    times: 99,
    code: "exhausted",
    reason: "HOST_DISK_FULL",
  } as const;
  first?.driver.set({ failures: [refusal] });
  const id = await createInstance(replica.resources);
  await world.untilPhase(id, "running");
  t.equal((await world.find(id))?.hostId, second?.id);
  t.strictSame(await world.lastingViolations(), []);
});

t.test("what no host can take is failed with the reason and holds nothing", async (t) => {
  const world = await worldOf(t, 1);
  const replica = await replicaOf(t, world);
  const id = await createInstance(replica.resources, { cpus: 64 });
  await world.untilPhase(id, "failed");
  const stuck = await world.find(id);
  t.equal(stuck?.problem?.reason, "NO_HOST");
  t.match(stuck?.problem?.message, /cpu/i, "says what was missing");
  t.strictSame(await world.lastingViolations(), []);
  await replica.resources.delete(testCtx(), instance, id, quietly);
  await world.untilPhase(id, undefined);
});

t.test("growing beyond the host keeps the machine running and shows why", async (t) => {
  const world = await worldOf(t, 1);
  const replica = await replicaOf(t, world);
  const id = await runningInstance(world, replica);
  await replica.resources.update(testCtx(), instance, id, patch({ cpus: 64 }), quietly);
  await world.untilPhase(id, "running");
  t.equal((await world.find(id))?.problem?.reason, "NO_CAPACITY");
  await replica.resources.update(testCtx(), instance, id, patch({ cpus: 2 }), quietly);
  await until(async () => {
    const now = await world.find(id);
    return now?.observedGeneration === now?.generation && now?.problem === undefined;
  });
  t.strictSame(await world.lastingViolations(), []);
});

t.test("deleting while it is being created undoes the creation", async (t) => {
  const world = await worldOf(t, 1);
  const replica = await replicaOf(t, world);
  const [host] = world.hosts;
  if (host) host.connected = false;
  const id = await createInstance(replica.resources);
  await until(
    async () => (await world.find(id))?.hostId !== undefined || (await world.find(id))?.problem !== undefined,
  );
  await replica.resources.delete(testCtx(), instance, id, quietly);
  if (host) host.connected = true;
  await world.untilPhase(id, undefined);
  t.strictSame(await world.lastingViolations(), []);
});

t.test("a machine of an erased instance is removed, one that nobody knows is shown", async (t) => {
  const world = await worldOf(t, 1);
  const replica = await replicaOf(t, world);
  const id = await runningInstance(world, replica);
  const [host] = world.hosts;
  t.ok(host);
  if (!host) return;
  await world.database.query("insert into tombstone (id, kind) values ($1, 'instance')", [id]);
  await world.database.query("delete from resource where id = $1", [id]);
  await world.database.query("delete from reservation where resource_id = $1", [id]);
  const { create } = await import("@bufbuild/protobuf");
  const { ReportRequestSchema } = await import("#gen/skerry/control/v1/control_pb.js");
  const full = create(ReportRequestSchema, { full: true, machines: [...host.manager.list()] });
  await replica.engine.reports.report(host.id, full);
  await until(() => host.manager.list().length === 0);

  const stranger = await createInstance(replica.resources);
  await world.untilPhase(stranger, "running");
  await world.database.query("delete from resource where id = $1", [stranger]);
  const again = create(ReportRequestSchema, { full: true, machines: [...host.manager.list()] });
  await replica.engine.reports.report(host.id, again);
  t.equal(host.manager.list().length, 1, "it is left alone");
  const [row] = await world.database.query<{ unknown: string[] }>(
    "select observed -> 'unknown_machines' as unknown from resource where id = $1",
    [host.id],
  );
  t.strictSame(row?.unknown, [stranger]);
});

t.test("reports that come twice, late and in any order leave the newest", async (t) => {
  const world = await worldOf(t, 1);
  const replica = await replicaOf(t, world);
  const [host] = world.hosts;
  if (!host) return;
  const seen: (typeof host.manager extends { list(): readonly (infer M)[] } ? M : never)[] = [];
  using _watch = host.changes.subscribe((change) => void ("changed" in change && seen.push(change.changed)));
  const id = await runningInstance(world, replica);
  await replica.resources.invoke(testCtx(), instance, id, "stop", {}, quietly);
  await world.untilPhase(id, "stopped");
  const { create } = await import("@bufbuild/protobuf");
  const { ReportRequestSchema } = await import("#gen/skerry/control/v1/control_pb.js");
  for (const machine of [...seen].reverse().concat(seen)) {
    await replica.engine.reports.report(host.id, create(ReportRequestSchema, { machines: [machine] }));
  }
  t.equal((await world.find(id))?.phase, "stopped");
});

t.test("a claim that was lost can write nothing and command nothing", async (t) => {
  const world = await worldOf(t, 1);
  const replica = await replicaOf(t, world);
  const id = await runningInstance(world, replica);
  const [host] = world.hosts;
  const machine = host?.manager.get(id);
  const fence = { epoch: (machine?.fence?.epoch ?? 0n) - 1n, generation: 1n };
  const late = host?.manager.remove({ id, fence, waitMs: 0 }, new AbortController().signal);
  t.equal(await reasonOf(late ?? Promise.resolve()), "FENCE_STALE");
  t.ok(leaseMs > 15_000, "a lease outlives the longest command");
});

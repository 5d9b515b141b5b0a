/**
 * The engine on a real database with real machine managers: what users ask for happens once, whatever
 * dies on the way.
 */
import { create } from "@bufbuild/protobuf";
import t, { type Test } from "tap";
import { instance } from "#cp/resources/instance/instance.resource.ts";
import { wakeAll } from "#cp/engine/loss-record.ts";
import { firstEpochOf, leaseMs, WorkQueue } from "#cp/engine/work.ts";
import { fencedWrite } from "#cp/engine/writes.ts";
import { instanceController } from "#cp/resources/instance/instance.controller.ts";
import { createRegistry } from "#cp/resources/registry.ts";
import { MachineSpecSchema } from "#gen/skerry/agent/v1/machine_pb.js";
import { ReportRequestSchema } from "#gen/skerry/control/v1/control_pb.js";
import { silentLogger } from "#kernel/log.ts";
import {
  createInstance,
  quietly,
  testCtx,
  World,
  type Replica,
  type WorldAgent,
  type WorldOptions,
} from "#test/support/engine-world.ts";
import { verifyDeaths, verifyOperation, type Scenario } from "#test/support/verify-operation.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const GiB = 1024 ** 3;
const never = new AbortController().signal;

const databaseUrl = await withDatabase(t);

async function worldOf(t: Test, options: WorldOptions = {}): Promise<World> {
  const world = await World.start(databaseUrl, options);
  t.teardown(() => world.stop());
  return world;
}

async function replicaOf(t: Test, world: World, options = {}): Promise<Replica> {
  const replica = await world.replica(options);
  t.teardown(() => replica.stop());
  return replica;
}

const patch = (spec: object) => ({ spec });

async function runningInstance(world: World<WorldAgent>, { resources }: Replica): Promise<string> {
  const id = await createInstance(resources);
  await world.untilPhase(id, "running");
  return id;
}

async function stoppedInstance(world: World<WorldAgent>, { resources }: Replica): Promise<string> {
  const id = await createInstance(resources, { power: "off" });
  await world.untilPhase(id, "stopped");
  return id;
}

const scenarios = {
  create: { prepare: undefined, act: ({ resources }) => createInstance(resources), ends: "running" },
  stop: {
    prepare: runningInstance,
    async act({ resources }, id) {
      await resources.invoke(testCtx(), instance, id, "stop", {}, quietly);
      return id;
    },
    ends: "stopped",
  },
  start: {
    prepare: stoppedInstance,
    async act({ resources }, id) {
      await resources.invoke(testCtx(), instance, id, "start", {}, quietly);
      return id;
    },
    ends: "running",
  },
  resize: {
    prepare: runningInstance,
    async act({ resources }, id) {
      await resources.update(testCtx(), instance, id, patch({ cpus: 2, memory_bytes: GiB }), quietly);
      return id;
    },
    ends: "running",
  },
  delete: {
    prepare: runningInstance,
    async act({ resources }, id) {
      await resources.delete(testCtx(), instance, id, quietly);
      return id;
    },
    ends: undefined,
  },
} satisfies Record<string, Scenario>;

for (const [name, scenario] of Object.entries(scenarios)) {
  t.test(`${name}: a replica dies after each of its commits`, async (t) => {
    await verifyDeaths(t, await worldOf(t, { cpus: 64 }), name, scenario);
  });
}

t.test("create stands doubled and failing steps", async (t) => {
  await verifyOperation(t, await worldOf(t, { cpus: 64 }), "create", scenarios.create, "failed");
});

t.test("resize stands doubled and failing steps", async (t) => {
  await verifyOperation(t, await worldOf(t, { cpus: 64 }), "resize", scenarios.resize, "running");
});

t.test("two replicas share the work and nothing is done twice at once", async (t) => {
  const world = await worldOf(t, { hosts: 3 });
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
  const world = await worldOf(t, { hosts: 1 });
  const replica = await replicaOf(t, world);
  const [host] = world.hosts;
  if (host) host.loseReplies = 2;
  const id = await createInstance(replica.resources);
  await world.untilPhase(id, "running");
  t.strictSame(await world.lastingViolations(), []);
});

t.test("a host that refuses is passed over, and the refusal leaves nothing behind", async (t) => {
  const world = await worldOf(t, { hosts: 2 });
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

t.test("what no host can take waits with the reason, and starts when room appears", async (t) => {
  const world = await worldOf(t, { hosts: 1 });
  const replica = await replicaOf(t, world);
  const first = await createInstance(replica.resources, { cpus: 3 });
  await world.untilPhase(first, "running");
  /** Waits until it waits, and keeps its own clock from ending that. */
  const untilWaiting = async (id: string) => {
    await until(async () => {
      const rested = `update work set run_at = now() + interval '1 hour'
        where key = $1 and run_at is not null and lease_until is null returning 1`;
      const problem = (await world.find(id))?.problem;
      return problem !== undefined && (await world.database.query(rested, [id])).length > 0;
    });
    const { phase, problem } = (await world.find(id)) ?? {};
    t.match({ phase, problem }, { phase: "pending", problem: { reason: "NO_HOST", stuck: false } });
    t.match(problem?.message, /waiting for a host: none of 1 host will do: 1 full \(CPUs: \d+ short\)/);
  };
  const second = await createInstance(replica.resources, { cpus: 2 }, "second");
  const large = await createInstance(replica.resources, { cpus: 64 }, "large");
  await untilWaiting(second);
  await untilWaiting(large);
  await replica.resources.delete(testCtx(), instance, first, quietly);
  await world.untilPhase(second, "running");
  t.equal((await world.find(second))?.problem, undefined);
  const [still] = await world.database.query<{ waits: boolean }>(
    "select run_at > now() + interval '50 minutes' as waits from work where key = $1",
    [large],
  );
  t.ok(still?.waits, "one that the new room is too small for was not tried");
  await replica.resources.update(testCtx(), instance, large, patch({ cpus: 2 }), quietly);
  await world.untilPhase(large, "running");

  const third = await createInstance(replica.resources, {}, "third");
  await untilWaiting(third);
  await replica.resources.delete(testCtx(), instance, third, quietly);
  await world.untilPhase(third, undefined);
  t.strictSame(await world.lastingViolations(), []);
});

t.test("growing beyond the host keeps the machine running and shows why", async (t) => {
  const world = await worldOf(t, { hosts: 1 });
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
  const world = await worldOf(t, { hosts: 1 });
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
  const world = await worldOf(t, { hosts: 1 });
  const replica = await replicaOf(t, world);
  const id = await runningInstance(world, replica);
  const [host] = world.hosts;
  t.ok(host);
  if (!host) return;
  await world.database.query("insert into tombstone (id, kind) values ($1, 'instance')", [id]);
  await world.database.query("delete from resource where id = $1", [id]);
  await world.database.query("delete from reservation where resource_id = $1", [id]);
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

t.test(
  "a copy of an instance that runs elsewhere is removed, and its host may have the instance later",
  async (t) => {
    const world = await worldOf(t, { hosts: 2 });
    const replica = await replicaOf(t, world);
    const id = await runningInstance(world, replica);
    const owner = world.host((await world.find(id))?.hostId ?? "");
    const other = world.hosts.find((host) => host !== owner)!;
    const copyTo = async (epoch: bigint) => {
      const spec = create(MachineSpecSchema, { name: id, vcpus: 1, memoryBytes: 1n << 29n });
      await other.manager.ensure({ id, spec, fence: { epoch, generation: 1n }, waitMs: 5_000 }, never);
    };
    const reportAll = (host: WorldAgent) =>
      replica.engine.reports.report(
        host.id,
        create(ReportRequestSchema, { full: true, machines: [...host.manager.list()] }),
      );
    /** Once all who waited for the row have had it. */
    const epochOf = async () => {
      const [row] = await world.database.query<{ epoch: number }>(
        "select lease_epoch as epoch from work where key = $1 for update",
        [id],
      );
      return row!.epoch;
    };

    await copyTo(1n);
    await reportAll(other);
    await until(() => other.manager.list().length === 0);
    await copyTo(firstEpochOf({ epoch: (await epochOf()) + 1 }));
    t.equal(other.manager.list().length, 1, "the next one who works on it may give it to the host");

    const epoch = await epochOf();
    const given = await world.database.transaction(async (tx) => {
      await tx.query("select 1 from work where key = $1 for update", [id]);
      await reportAll(other);
      const waits =
        "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
      await until(async () => (await world.database.query(waits)).length > 0);
      return tx.query(
        "insert into reservation select resource_id, $2, cpus, memory_bytes, disk_bytes from reservation where resource_id = $1 returning 1",
        [id, other.id],
      );
    });
    t.equal(given.length, 1);
    t.equal(await epochOf(), epoch, "it has been given the instance since it was looked at");
    t.equal(other.manager.list().length, 1);
  },
);

t.test(
  "hosts that have accepted more than a database knows that was put back from a backup are commanded on",
  async (t) => {
    const world = await worldOf(t, { hosts: 1 });
    const replica = await replicaOf(t, world);
    const id = await runningInstance(world, replica);
    await world.untilSettled(id, "running");
    await world.database.query("update work set lease_epoch = lease_epoch + 1000 where key = $1", [id]);
    await replica.resources.update(testCtx(), instance, id, patch({ cpus: 2 }), quietly);
    await world.untilSettled(id, "running");
    await world.database.query("update work set lease_epoch = 3 where key = $1", [id]);
    await replica.resources.invoke(testCtx(), instance, id, "stop", {}, quietly);
    await world.untilPhase(id, "stopped");
    t.strictSame(await world.lastingViolations(), []);
  },
);

t.test("reports that come twice, late and in any order leave the newest", async (t) => {
  const world = await worldOf(t, { hosts: 1 });
  const replica = await replicaOf(t, world);
  const [host] = world.hosts;
  if (!host) return;
  const seen: (typeof host.manager extends { list(): readonly (infer M)[] } ? M : never)[] = [];
  using _watch = host.changes.subscribe((change) => void ("changed" in change && seen.push(change.changed)));
  const id = await runningInstance(world, replica);
  await replica.resources.invoke(testCtx(), instance, id, "stop", {}, quietly);
  await world.untilPhase(id, "stopped");
  for (const machine of [...seen].reverse().concat(seen)) {
    await replica.engine.reports.report(host.id, create(ReportRequestSchema, { machines: [machine] }));
  }
  t.equal((await world.find(id))?.phase, "stopped");
});

t.test("a database that is away while a key is given back does not cost the key its lease", async (t) => {
  const world = await worldOf(t, { hosts: 1 });
  // As a server says it that is being shut down.
  await world.database.query("create sequence refusal");
  await world.database.query(
    `create function refuse() returns trigger language plpgsql as $$ begin
       if nextval('refusal') <= 3 then raise exception 'away' using errcode = '57P01'; end if;
       return new;
     end $$`,
  );
  await world.database.query(
    `create trigger refuse before update on work for each row
       when (old.lease_until is not null and new.lease_until is null) execute function refuse()`,
  );
  t.teardown(async () => {
    await world.database.query("drop function if exists refuse cascade");
    await world.database.query("drop sequence if exists refusal");
  });
  const replica = await replicaOf(t, world);
  const id = await createInstance(replica.resources);
  await world.untilSettled(id, "running");
  const [tries] = await world.database.query<{ last_value: string }>("select last_value from refusal");
  t.ok(
    Number(tries?.last_value) > 3,
    "it was refused, and given back long before the lease would have run out",
  );
});

t.test("a claim that was lost can write nothing and command nothing", async (t) => {
  const world = await worldOf(t, { hosts: 1 });
  const replica = await replicaOf(t, world);
  const id = await runningInstance(world, replica);
  const [host] = world.hosts;
  const machine = host?.manager.get(id);
  const fence = { epoch: (machine?.fence?.epoch ?? 0n) - 1n, generation: 1n };
  const late = host?.manager.remove({ id, fence, waitMs: 0 }, new AbortController().signal);
  t.equal(await reasonOf(late ?? Promise.resolve()), "FENCE_STALE");
  t.ok(leaseMs > 15_000, "a lease outlives the longest command");

  const lost = { key: id, kind: "instance", epoch: 0, dirtySeq: 1, attempt: 1 };
  const registry = createRegistry([instanceController]);
  const write = fencedWrite(world.database, registry, lost, silentLogger, (writes) => writes.unplace());
  t.equal(await reasonOf(write), "LEASE_LOST");
  t.equal((await world.find(id))?.hostId, host?.id, "nothing was written");
});

t.test("a replica that was taken for dead has its hosts again as soon as it is heard", async (t) => {
  const world = await worldOf(t, { hosts: 2 });
  const replica = await replicaOf(t, world);
  const { database } = world;
  const held = async () => {
    const rows = await database.query("select 1 from host_session where replica_id is not null");
    return rows.length;
  };
  await until(async () => (await held()) === 2);
  await database.transaction(async (tx) => {
    await tx.query("update replica set last_seen = now() - interval '1 minute'");
    await tx.query("update host_session set replica_id = null");
  });
  await until(async () => (await held()) === 2);
  await stoppedInstance(world, replica);
  const [host] = world.hosts;
  await database.transaction(async (tx) => {
    await tx.query("update replica set last_seen = now() - interval '1 minute'");
    const gone = "update host_session set replica_id = case when host_id = $1 then 'another' end";
    await tx.query(gone, [host?.id]);
    await tx.query(
      "insert into replica (id, url, last_seen) values ('another', 'http://another', 'infinity')",
    );
  });
  await until(async () => (await held()) === 2);
  const others = await database.query<{ id: string }>(
    "select host_id as id from host_session where replica_id = 'another'",
  );
  t.same(others, [{ id: host?.id }], "but one that has gone to another replica is that one's");
});

t.test("what a lost host had comes before what has waited longer, until it is settled", async (t) => {
  const world = await worldOf(t, { hosts: 1 });
  const replica = await world.replica();
  const ordinary = await stoppedInstance(world, replica);
  const urgent = await stoppedInstance(world, replica);
  await replica.stop();
  const { database } = world;
  const [on] = await database.query<{ host: string }>(
    `update resource set desired = desired || '{"on_host_loss": "restart_elsewhere"}' where id = $1 returning host_id as host`,
    [urgent],
  );
  const host = on?.host ?? "";
  await database.transaction((tx) => wakeAll(tx, host));
  await database.query("update work set run_at = now() - interval '1 hour' where key = $1", [ordinary]);
  await database.query("update host_session set replica_id = 'somebody' where host_id = $1", [host]);
  const queue = new WorkQueue(database, "somebody");
  const [claim] = await queue.claim(1);
  if (!claim) throw new Error("nothing is due");
  t.equal(claim.key, urgent);
  await queue.settle(claim, { restMs: undefined, hostId: undefined, progressed: true, error: null });
  const priorities = await database.query("select 1 from work where priority <> 0");
  t.same(priorities, [], "afterwards it is like any other");
});

t.test("what ended windows of rates leave behind is cleared; the present ones stay", async (t) => {
  const world = await worldOf(t, { hosts: 1 });
  await world.database.query(
    `insert into rate_lease (subject, allowance, window_start, taken) values
       ('10.0.0.1', 'a', extract(epoch from now())::bigint - 3 * 86400, 1),
       ('10.0.0.2', 'a', extract(epoch from now())::bigint - 86400, 1)`,
  );
  await replicaOf(t, world);
  const left = () =>
    world.database.query<{ subject: string }>("select subject from rate_lease order by subject");
  await until(async () => (await left()).length < 2);
  t.same(await left(), [{ subject: "10.0.0.2" }]);
});

/**
 * The engine on a real database with real machine managers: what users ask for happens once, whatever
 * dies on the way.
 */
import t from "tap";
import { instance } from "#cp/resources/instance/instance.resource.ts";
import { wakeAll } from "#cp/engine/loss-record.ts";
import { WorkQueue } from "#cp/engine/work.ts";
import { replicaOf, runningInstance, stoppedInstance, worldsOn } from "#test/support/engine-fixtures.ts";
import { createInstance, quietly, testCtx } from "#test/support/engine-world.ts";
import { verifyDeaths, verifyOperation, type Scenario } from "#test/support/verify-operation.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { until } from "#test/support/until.ts";

const GiB = 1024 ** 3;

const worldOf = worldsOn(await withDatabase(t));

const patch = (spec: object) => ({ spec });

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

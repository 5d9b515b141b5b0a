/** Migrations on a real database and simulated hosts: what one is told before, where it leads, and how soon. */
import t from "tap";
import { MigrationPlanner } from "#cp/app/migration-planner.ts";
import { migration } from "#cp/resources/migration/migration.resource.ts";
import { replicaOf, settledInstance } from "#test/support/engine-fixtures.ts";
import { createInstance, testCtx } from "#test/support/engine-world.ts";
import { assertSound, migrate, scenesOn, untilMigration } from "#test/support/migration-scene.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { reasonOf } from "#test/support/reason-of.ts";

const sceneOf = scenesOn(await withDatabase(t));

t.test("a running instance moves, and the record says so", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
  const from = (await scene.world.find(vm))?.hostId;
  const id = await migrate(replica, vm);
  const done = await untilMigration(scene, id, "complete", "failed");
  t.match(done, {
    phase: "complete",
    observedGeneration: 1,
    observed: { error: null, source: { host_id: from } },
  });
  t.match(done.observed?.receipt, { stopped_ms: 7, resumed_ms: 3, bytes_sent: 400 });
  t.ok((done.observed?.receipt?.downtime_ms ?? 0) >= 10, "the downtime is at least what was measured");
  await scene.world.untilSettled(vm, "running");
  const after = await scene.world.find(vm);
  t.not(after?.hostId, from);
  t.equal(after?.placement?.host_id, after?.hostId);
  t.equal(after?.observed?.host_id, after?.hostId);
  t.equal(after?.observed?.migration, null);
  await assertSound(t, scene, "after the move");

  await untilMigration(scene, await migrate(replica, vm), "complete");
  await scene.world.untilSettled(vm, "running");
  t.equal((await scene.world.find(vm))?.hostId, from, "and back again");
  await assertSound(t, scene, "after the move back");
});

t.test("from the hand-over to the run there is a moment only", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
  for (let n = 0; n < 10; n++) {
    await untilMigration(scene, await migrate(replica, vm), "complete");
    await scene.world.untilSettled(vm, "running");
  }
  const gaps = scene.simulation.gapsMs.toSorted((a, b) => a - b);
  t.comment(`hand-over to run, ms: ${gaps.map((gap) => gap.toFixed(1)).join(" ")}`);
  t.equal(gaps.length, 10);
  t.ok((gaps[0] ?? Infinity) < 100, "the best is below what a guest would notice, on however busy a machine");
});

t.test("what it would be is told without beginning it", async (t) => {
  const scene = await sceneOf(t, { hosts: 3 });
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
  const planner = new MigrationPlanner({ database: scene.world.database, fleet: replica.engine.fleet });
  const plan = async (wish: object) => {
    const moving = await scene.world.find(vm);
    if (!moving) throw new Error("it is gone");
    replica.engine.fleet.refresh();
    return planner.plan(testCtx(), moving, migration.spec.parse({ instance: vm, ...wish }));
  };
  const [from, other] = scene.world.hosts.toSorted((a) => (a.holdsAny(vm) ? -1 : 1));
  t.match(await plan({ host: other?.id }), {
    possible: true,
    type: "live",
    target: { host_id: other?.id },
    predicted: { basis: "assumption", downtime_ms: 150 },
    blockers: [],
  });
  const codesOf = async (wish: object) => (await plan(wish)).blockers.map(({ code }) => code);
  t.strictSame(await codesOf({ host: from?.id }), ["host", "excluded"]);
  await scene.world.database.query(
    `update resource set observed = observed || '{"machine_types": ["fake-0"]}' where id = $1`,
    [other?.id],
  );
  t.strictSame(await codesOf({ host: other?.id }), ["host", "machine_type"]);
  await scene.world.database.query(
    `update incarnation set observed = observed || '{"guest_model": {"machine_type": "fake-0", "cpu_model": "fake"}}'
     where resource_id = $1`,
    [vm],
  );
  t.notOk(
    (await codesOf({ host: other?.id })).includes("machine_type"),
    "it keeps the one that it started with",
  );
  await scene.world.database.query(
    `update resource set observed = jsonb_set(observed, '{capacity, memory_bytes}', '1') where kind = 'host' and id <> $1`,
    [from?.id],
  );
  t.strictSame(await codesOf({ type: "cold" }), ["capacity", "excluded"], "cold asks for no machine type");
  t.equal(await scene.world.find(vm).then((found) => found?.phase), "running");
  t.strictSame(await scene.world.violations(), []);
});

t.test("what no driver can do is refused before anything is touched", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
  const planner = new MigrationPlanner({ database: scene.world.database, fleet: replica.engine.fleet });
  const planned = async () => {
    const moving = await scene.world.find(vm);
    if (!moving) throw new Error("it is gone");
    replica.engine.fleet.refresh();
    return planner.plan(testCtx(), moving, migration.spec.parse({ instance: vm, type: "postcopy" }));
  };
  const refused = await planned();
  t.match(refused, { possible: false, target: null });
  t.strictSame(
    refused.blockers.map(({ code }) => code),
    ["postcopy_unsupported", "capability"],
  );
  t.equal(await reasonOf(migrate(replica, vm, { type: "postcopy" })), "POSTCOPY_UNSUPPORTED");
  const [open] = await scene.world.database.query("select 1 from resource where kind = 'migration'");
  t.equal(open, undefined, "nothing was stored");
  await scene.world.database.query(
    `update resource set observed = jsonb_set(observed, '{capabilities}', '["migration", "migration.postcopy"]')
     where kind = 'host'`,
  );
  t.match(await planned(), { possible: true, type: "postcopy", blockers: [] });
  await untilMigration(scene, await migrate(replica, vm, { type: "postcopy" }), "complete");
});

t.test("a machine that is off moves cold, and stays off", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene.world);
  const vm = await createInstance(replica.resources, { power: "off" });
  await scene.world.untilSettled(vm, "stopped");
  const done = await untilMigration(scene, await migrate(replica, vm), "complete", "failed");
  t.match(done, { phase: "complete", observed: { type: "cold", receipt: { downtime_ms: null } } });
  await scene.world.untilSettled(vm, "stopped");
  await assertSound(t, scene, "moved cold");

  const running = await createInstance(replica.resources, {}, "on");
  await scene.world.untilSettled(running, "running");
  const cold = await untilMigration(
    scene,
    await migrate(replica, running, { type: "cold" }),
    "complete",
    "failed",
  );
  t.match(cold, { phase: "complete", observed: { type: "cold" } });
  await scene.world.untilSettled(running, "running");
  await assertSound(t, scene, "stopped, moved, started");
});

t.test("what cannot be placed fails at once and says why", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
  const host = (await scene.world.find(vm))?.hostId ?? "";
  const done = await untilMigration(scene, await migrate(replica, vm, { host }), "complete", "failed");
  t.match(done, { phase: "failed", observed: { error: { reason: "NO_HOST" }, target: null } });
  const nowhere = migrate(replica, vm, { provider: "nowhere" });
  t.equal(await reasonOf(nowhere), "VALIDATION_ERROR");
  await scene.world.untilSettled(vm, "running");
  await assertSound(t, scene, "not placed");
});

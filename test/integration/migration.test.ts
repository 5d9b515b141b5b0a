/**
 * Migrations on a real database and simulated hosts: whatever dies, fails or is called off on the way, the
 * guest runs in one place and nothing that it wrote is lost.
 */
import { create } from "@bufbuild/protobuf";
import t, { type Test } from "tap";
import { MigrationPlanner } from "#cp/app/migration-planner.ts";
import type { Reply } from "#cp/app/resource-api.ts";
import { resourceColumns, toResource, type ResourceRow } from "#cp/engine/rows.ts";
import type { Resource } from "#cp/resources/definition.ts";
import { ReportRequestSchema } from "#gen/skerry/control/v1/control_pb.js";
import { instance } from "#cp/resources/instance/instance.resource.ts";
import { migration, type Migration } from "#cp/resources/migration/migration.resource.ts";
import {
  createInstance,
  quietly,
  testCtx,
  World,
  type Replica,
  type WorldOptions,
} from "#test/support/engine-world.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { Simulation, type SimulatedHost } from "#test/support/simulated-host.ts";
import { until } from "#test/support/until.ts";
import { verifyDeaths, verifyOperation, type Scenario } from "#test/support/verify-operation.ts";

const databaseUrl = await withDatabase(t);

interface Scene {
  readonly world: World<SimulatedHost>;
  readonly simulation: Simulation;
}

async function sceneOf(t: Test, options: WorldOptions = {}): Promise<Scene> {
  const simulation = new Simulation();
  const world = await World.startWith(databaseUrl, simulation.startHost, options);
  t.teardown(() => world.stop());
  return { world, simulation };
}

async function replicaOf(t: Test, { world }: Scene, options = {}): Promise<Replica> {
  const replica = await world.replica(options);
  t.teardown(() => replica.stop());
  return replica;
}

async function running({ world }: Pick<Scene, "world">, { resources }: Replica, spec = {}): Promise<string> {
  const id = await createInstance(resources, spec);
  await world.untilSettled(id, "running");
  return id;
}

async function migrate({ resources }: Replica, vm: string, spec: object = {}): Promise<string> {
  let id = "";
  const respond = (resource: Resource): Reply => {
    id = resource.id;
    return { status: 201, headers: {}, body: null };
  };
  await resources.create(
    testCtx(),
    migration,
    { name: "move", spec: { instance: vm, ...spec } },
    { respond },
  );
  return id;
}

async function read({ world }: Pick<Scene, "world">, id: string): Promise<Migration> {
  const [row] = await world.database.query<ResourceRow>(
    `select ${resourceColumns} from resource where id = $1`,
    [id],
  );
  if (!row) throw new Error(`there is no ${id}`);
  return toResource(row) as Migration;
}

async function untilPhase(scene: Pick<Scene, "world">, id: string, ...phases: string[]): Promise<Migration> {
  await until(async () => phases.includes((await read(scene, id)).phase));
  return read(scene, id);
}

async function assertSound(t: Test, { world, simulation }: Scene, what: string): Promise<void> {
  t.strictSame(await world.lastingViolations(), [], `${what}: nothing is left over`);
  t.strictSame(simulation.seen, [], `${what}: nobody saw two running or an old one`);
}

t.test("a running instance moves, and the record says so", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
  const from = (await scene.world.find(vm))?.hostId;
  const id = await migrate(replica, vm);
  const done = await untilPhase(scene, id, "complete", "failed");
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

  await untilPhase(scene, await migrate(replica, vm), "complete");
  await scene.world.untilSettled(vm, "running");
  t.equal((await scene.world.find(vm))?.hostId, from, "and back again");
  await assertSound(t, scene, "after the move back");
});

t.test("from the hand-over to the run there is a moment only", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
  for (let n = 0; n < 10; n++) {
    await untilPhase(scene, await migrate(replica, vm), "complete");
    await scene.world.untilSettled(vm, "running");
  }
  const gaps = scene.simulation.gapsMs.toSorted((a, b) => a - b);
  t.comment(`hand-over to run, ms: ${gaps.map((gap) => gap.toFixed(1)).join(" ")}`);
  t.equal(gaps.length, 10);
  t.ok((gaps[0] ?? Infinity) < 100, "the best is below what a guest would notice, on however busy a machine");
});

t.test("what it would be is told without beginning it", async (t) => {
  const scene = await sceneOf(t, { hosts: 3 });
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
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
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
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
  await untilPhase(scene, await migrate(replica, vm, { type: "postcopy" }), "complete");
});

const scenario: Scenario = {
  prepare: (world, replica) => running({ world: world as World<SimulatedHost> }, replica),
  async act(replica, vm) {
    await migrate(replica, vm);
    return vm;
  },
  ends: "running",
};

t.test("a replica dies after each of its commits", async (t) => {
  const scene = await sceneOf(t, { cpus: 64 });
  await verifyDeaths(t, scene.world, "migrate", scenario);
  await assertSound(t, scene, "after all deaths");
});

t.test("doubled and failing steps", async (t) => {
  const scene = await sceneOf(t, { cpus: 64 });
  await verifyOperation(t, scene.world, "migrate", scenario, "running");
  await assertSound(t, scene, "after all failures");
});

t.test("calling it off in each phase leaves the guest where it was", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
  const from = (await scene.world.find(vm))?.hostId;
  for (const holdAt of ["preparing", "disk-copy", "pre-copy", "converged", "switchover"] as const) {
    scene.simulation.holdAt = holdAt;
    const id = await migrate(replica, vm);
    await until(async () => scene.world.hosts.some((host) => host.holds(vm, holdAt)));
    await until(async () => (await scene.world.find(vm))?.phase === "migrating");
    for (const verb of ["stop", "restart"]) {
      const refused = replica.resources.invoke(testCtx(), instance, vm, verb, {}, quietly);
      t.equal(await reasonOf(refused), "PHASE_CONFLICT", `${verb} is refused while it moves`);
    }
    const grow = replica.resources.update(testCtx(), instance, vm, { spec: { cpus: 2 } }, quietly);
    t.equal(await reasonOf(grow), "PHASE_CONFLICT", "so is a change");
    t.equal(await reasonOf(migrate(replica, vm)), "REQUEST_UNDER_WAY", "and another move");
    await replica.resources.invoke(testCtx(), migration, id, "cancel", {}, quietly);
    const done = await untilPhase(scene, id, "cancelled", "complete", "failed");
    scene.simulation.holdAt = undefined;
    t.match(done, { phase: "cancelled", observed: { error: { reason: "CANCELLED" } } }, holdAt);
    await scene.world.untilSettled(vm, "running");
    t.equal((await scene.world.find(vm))?.hostId, from);
    await assertSound(t, scene, `cancelled at ${holdAt}`);
    const late = replica.resources.invoke(testCtx(), migration, id, "cancel", {}, quietly);
    t.equal(await reasonOf(late), "PHASE_CONFLICT");
  }
});

t.test("what fails at a host turns the move back and says why", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
  for (const failAt of [
    "ready",
    "disk-copy",
    "pre-copy",
    "converged",
    "switchover",
    "handed-over",
  ] as const) {
    scene.simulation.failAt = failAt;
    const done = await untilPhase(scene, await migrate(replica, vm), "cancelled", "complete", "failed");
    t.match(done, { phase: "failed", observed: { error: { reason: "TEST_FAILURE" } } }, failAt);
    scene.simulation.failAt = undefined;
    await scene.world.untilSettled(vm, "running");
    await assertSound(t, scene, `failed at ${failAt}`);
  }
});

t.test("the source gets ready while the target does, and hears when that comes to nothing", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
  const source = scene.world.hosts.find((host) => host.id === scene.simulation.whereRuns(vm));
  const toldOf = () => source?.find(vm)?.spec.move?.migrationId;
  scene.simulation.holdAt = "preparing";
  const id = await migrate(replica, vm);
  await until(async () => toldOf() === id);
  t.equal((await read(scene, id)).observed?.stage, "preparing", "the target is not ready yet");
  await replica.resources.invoke(testCtx(), migration, id, "cancel", {}, quietly);
  await untilPhase(scene, id, "cancelled");
  scene.simulation.holdAt = undefined;
  await scene.world.untilSettled(vm, "running");
  t.equal(toldOf(), undefined, "it goes on as if it had never been asked");
  await assertSound(t, scene, "cancelled");
});

t.test("a target that lost what had arrived turns the move back", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
  scene.simulation.holdAt = "pre-copy";
  const id = await migrate(replica, vm);
  await until(async () => scene.world.hosts.some((host) => host.holds(vm, "pre-copy")));
  // The source may be that far before it is on record that the target is ready.
  const prepared =
    "select 1 from operation_step s join operation o on o.id = s.operation_id and o.resource_id = $1";
  await until(async () => {
    const rows = await scene.world.database.query(`${prepared} and s.name = 'prepare'`, [vm]);
    return rows.length > 0;
  });
  const target = scene.world.hosts.find((host) => host.holds(vm, "ready"));
  target?.wipe();
  await scene.world.database.query("update incarnation set updated_at = now() - interval '1 minute'");
  await replica.engine.reports.report(target?.id ?? "", create(ReportRequestSchema, { full: true }));
  const done = await untilPhase(scene, id, "cancelled", "complete", "failed");
  t.match(done, { phase: "failed", observed: { error: { reason: "TARGET_LOST" } } });
  scene.simulation.holdAt = undefined;
  await scene.world.untilSettled(vm, "running");
  await assertSound(t, scene, "the target lost it");
});

t.test("a target that cannot take over after the commit gives the instance back", async (t) => {
  const scene = await sceneOf(t, { cpus: 64 });
  const replica = await scene.world.replica();
  const vm = await running(scene, replica);
  const from = (await scene.world.find(vm))?.hostId;
  scene.simulation.losesArrivals = true;
  const done = await untilPhase(scene, await migrate(replica, vm), "cancelled", "complete", "failed");
  const error = { reason: "MOVE_INCOMPLETE" };
  t.match(done, { phase: "failed", observed: { error, committed_at: null, ended_at: String } });
  await scene.world.untilSettled(vm, "running");
  t.equal((await scene.world.find(vm))?.hostId, from, "the record says so");
  t.equal(scene.simulation.whereRuns(vm), from, "it goes on where it was");
  await assertSound(t, scene, "given back");
  await replica.stop();

  await verifyDeaths(t, scene.world, "migrate", scenario);
  await assertSound(t, scene, "given back by replicas that die");
});

t.test("a target whose disk is full after the commit takes over once there is room", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
  const from = (await scene.world.find(vm))?.hostId;
  scene.simulation.fullTargets = Infinity;
  const id = await migrate(replica, vm);
  await until(async () => (await scene.world.find(vm))?.problem?.reason === "HOST_DISK_FULL");
  const [told] = await scene.world.database.query(
    "select status, error from operation where resource_id = $1 and name = 'migrate'",
    [vm],
  );
  t.match(
    told,
    { status: "running", error: { reason: "HOST_DISK_FULL" } },
    "its owner sees what it waits for",
  );
  t.equal(scene.simulation.whereRuns(vm), undefined);
  scene.simulation.fullTargets = 0;
  await untilPhase(scene, id, "complete");
  await scene.world.untilSettled(vm, "running");
  t.not(scene.simulation.whereRuns(vm), from);
  await assertSound(t, scene, "taken over late");
});

t.test("deleting an instance that moves calls the move off", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
  scene.simulation.holdAt = "pre-copy";
  const id = await migrate(replica, vm);
  await until(async () => scene.world.hosts.some((host) => host.holds(vm, "pre-copy")));
  await replica.resources.delete(testCtx(), instance, vm, quietly);
  await until(async () => (await scene.world.find(vm)) === undefined);
  t.match(await read(scene, id), { phase: "cancelled", observed: { error: { reason: "CANCELLED" } } });
  await assertSound(t, scene, "deleted");
});

t.test("a machine that is off moves cold, and stays off", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene);
  const vm = await createInstance(replica.resources, { power: "off" });
  await scene.world.untilSettled(vm, "stopped");
  const done = await untilPhase(scene, await migrate(replica, vm), "complete", "failed");
  t.match(done, { phase: "complete", observed: { type: "cold", receipt: { downtime_ms: null } } });
  await scene.world.untilSettled(vm, "stopped");
  await assertSound(t, scene, "moved cold");

  const running = await createInstance(replica.resources, {}, "on");
  await scene.world.untilSettled(running, "running");
  const cold = await untilPhase(
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
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
  const host = (await scene.world.find(vm))?.hostId ?? "";
  const done = await untilPhase(scene, await migrate(replica, vm, { host }), "complete", "failed");
  t.match(done, { phase: "failed", observed: { error: { reason: "NO_HOST" }, target: null } });
  const nowhere = migrate(replica, vm, { provider: "nowhere" });
  t.equal(await reasonOf(nowhere), "VALIDATION_ERROR");
  await scene.world.untilSettled(vm, "running");
  await assertSound(t, scene, "not placed");
});

t.test("a source that goes away is waited for, and answers late", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene);
  const vm = await running(scene, replica);
  scene.simulation.holdAt = "preparing";
  const id = await migrate(replica, vm);
  await until(async () => scene.world.hosts.some((host) => host.holds(vm, "preparing")));
  const source = scene.world.hosts.find((host) => host.id === (scene.simulation.whereRuns(vm) ?? ""));
  if (!source) return t.fail("it runs nowhere");
  const setConnected = (connected: boolean) => {
    source.connected = connected;
    return scene.world.database.query(
      "update resource set observed = jsonb_set(observed, '{connected}', to_jsonb($2::boolean)) where id = $1",
      [source.id, connected],
    );
  };
  await setConnected(false);
  scene.simulation.holdAt = undefined;
  scene.world.hosts.find((host) => host !== source)?.resume(vm);
  await until(async () => (await read(scene, id)).observed?.waiting_for !== null);
  t.match((await read(scene, id)).observed?.waiting_for, /is not connected/);
  await setConnected(true);
  await untilPhase(scene, id, "complete");
  await scene.world.untilSettled(vm, "running");
  await assertSound(t, scene, "the source came back");
});

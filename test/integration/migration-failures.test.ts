/**
 * Migrations on a real database and simulated hosts: whatever dies, fails or is called off on the way, the
 * guest runs in one place and nothing that it wrote is lost.
 */
import { create } from "@bufbuild/protobuf";
import t from "tap";
import { ReportRequestSchema } from "#gen/skerry/control/v1/control_pb.js";
import { instance } from "#cp/resources/instance/instance.resource.ts";
import { migration } from "#cp/resources/migration/migration.resource.ts";
import { replicaOf, settledInstance, showConnected } from "#test/support/engine-fixtures.ts";
import { quietly, testCtx } from "#test/support/engine-world.ts";
import {
  assertSound,
  migrate,
  readMigration,
  scenesOn,
  untilMigration,
} from "#test/support/migration-scene.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";
import { verifyDeaths, verifyOperation, type Scenario } from "#test/support/verify-operation.ts";

const sceneOf = scenesOn(await withDatabase(t));

const scenario: Scenario = {
  prepare: settledInstance,
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
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
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
    const done = await untilMigration(scene, id, "cancelled", "complete", "failed");
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
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
  for (const failAt of [
    "ready",
    "disk-copy",
    "pre-copy",
    "converged",
    "switchover",
    "handed-over",
  ] as const) {
    scene.simulation.failAt = failAt;
    const done = await untilMigration(scene, await migrate(replica, vm), "cancelled", "complete", "failed");
    t.match(done, { phase: "failed", observed: { error: { reason: "TEST_FAILURE" } } }, failAt);
    scene.simulation.failAt = undefined;
    await scene.world.untilSettled(vm, "running");
    await assertSound(t, scene, `failed at ${failAt}`);
  }
});

t.test("the source gets ready while the target does, and hears when that comes to nothing", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
  const source = scene.world.hosts.find((host) => host.id === scene.simulation.whereRuns(vm));
  const toldOf = () => source?.find(vm)?.spec.move?.migrationId;
  scene.simulation.holdAt = "preparing";
  const id = await migrate(replica, vm);
  await until(async () => toldOf() === id);
  t.equal((await readMigration(scene, id)).observed?.stage, "preparing", "the target is not ready yet");
  await replica.resources.invoke(testCtx(), migration, id, "cancel", {}, quietly);
  await untilMigration(scene, id, "cancelled");
  scene.simulation.holdAt = undefined;
  await scene.world.untilSettled(vm, "running");
  t.equal(toldOf(), undefined, "it goes on as if it had never been asked");
  await assertSound(t, scene, "cancelled");
});

t.test("a target that lost what had arrived turns the move back", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
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
  const done = await untilMigration(scene, id, "cancelled", "complete", "failed");
  t.match(done, { phase: "failed", observed: { error: { reason: "TARGET_LOST" } } });
  scene.simulation.holdAt = undefined;
  await scene.world.untilSettled(vm, "running");
  await assertSound(t, scene, "the target lost it");
});

t.test("a target that cannot take over after the commit gives the instance back", async (t) => {
  const scene = await sceneOf(t, { cpus: 64 });
  const replica = await scene.world.replica();
  const vm = await settledInstance(scene.world, replica);
  const from = (await scene.world.find(vm))?.hostId;
  scene.simulation.losesArrivals = true;
  const done = await untilMigration(scene, await migrate(replica, vm), "cancelled", "complete", "failed");
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
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
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
  await untilMigration(scene, id, "complete");
  await scene.world.untilSettled(vm, "running");
  t.not(scene.simulation.whereRuns(vm), from);
  await assertSound(t, scene, "taken over late");
});

t.test("deleting an instance that moves calls the move off", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
  scene.simulation.holdAt = "pre-copy";
  const id = await migrate(replica, vm);
  await until(async () => scene.world.hosts.some((host) => host.holds(vm, "pre-copy")));
  await replica.resources.delete(testCtx(), instance, vm, quietly);
  await until(async () => (await scene.world.find(vm)) === undefined);
  t.match(await readMigration(scene, id), {
    phase: "cancelled",
    observed: { error: { reason: "CANCELLED" } },
  });
  await assertSound(t, scene, "deleted");
});

t.test("a source that goes away is waited for, and answers late", async (t) => {
  const scene = await sceneOf(t);
  const replica = await replicaOf(t, scene.world);
  const vm = await settledInstance(scene.world, replica);
  scene.simulation.holdAt = "preparing";
  const id = await migrate(replica, vm);
  await until(async () => scene.world.hosts.some((host) => host.holds(vm, "preparing")));
  const source = scene.world.hosts.find((host) => host.id === (scene.simulation.whereRuns(vm) ?? ""));
  if (!source) return t.fail("it runs nowhere");
  const setConnected = (connected: boolean) => {
    source.connected = connected;
    return showConnected(scene.world, source.id, connected);
  };
  await setConnected(false);
  scene.simulation.holdAt = undefined;
  scene.world.hosts.find((host) => host !== source)?.resume(vm);
  await until(async () => (await readMigration(scene, id)).observed?.waiting_for !== null);
  t.match((await readMigration(scene, id)).observed?.waiting_for, /is not connected/);
  await setConnected(true);
  await untilMigration(scene, id, "complete");
  await scene.world.untilSettled(vm, "running");
  await assertSound(t, scene, "the source came back");
});

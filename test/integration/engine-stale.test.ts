/**
 * The engine and what is out of date: machines of instances that are gone, copies, old reports, lost claims,
 * a database from a backup, replicas that were taken for dead.
 */
import { create } from "@bufbuild/protobuf";
import t from "tap";
import { instance } from "#cp/resources/instance/instance.resource.ts";
import { firstEpochOf, leaseMs } from "#cp/engine/work.ts";
import { fencedWrite } from "#cp/engine/writes.ts";
import { instanceController } from "#cp/resources/instance/instance.controller.ts";
import { createRegistry } from "#cp/resources/registry.ts";
import { MachineSpecSchema } from "#gen/skerry/agent/v1/machine_pb.js";
import { ReportRequestSchema } from "#gen/skerry/control/v1/control_pb.js";
import { silentLogger } from "#kernel/log.ts";
import {
  replicaOf,
  runningInstance,
  showConnected,
  stoppedInstance,
  worldsOn,
} from "#test/support/engine-fixtures.ts";
import { createInstance, quietly, testCtx, type WorldAgent } from "#test/support/engine-world.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const never = new AbortController().signal;

const worldOf = worldsOn(await withDatabase(t));

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
  t.ok(host.commands.includes(`remove ${id}`), "with all that it had");

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
    t.ok(other.commands.includes(`remove ${id} but its disks`), "a move may have kept them for a move back");
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

t.test("an old copy goes as soon as the host that has it is back", async (t) => {
  const world = await worldOf(t, { hosts: 2 });
  const { database } = world;
  const replica = await replicaOf(t, world);
  const id = await runningInstance(world, replica);
  const { hostId } = (await world.find(id))!;
  const other = world.hosts.find((host) => host.id !== hostId)!;
  const spec = create(MachineSpecSchema, { name: id, vcpus: 1, memoryBytes: 1n << 29n });
  const fence = { epoch: 1n, generation: 1n };
  const copy = await other.manager.ensure({ id, spec, fence, waitMs: 5_000 }, never);
  await showConnected(world, other.id, false);
  await database.query(
    `insert into incarnation (resource_id, host_id, seq, epoch, accepted_generation, generation, state, observed)
     values ($1, $2, $3, 1, 1, 1, 'stopped', '{}')`,
    [id, other.id, String(copy.seq)],
  );
  await replica.resources.update(testCtx(), instance, id, { spec: { cpus: 2 } }, quietly);
  const waits = "select 1 from work where key = $1 and run_at > now() + interval '10 seconds'";
  await until(async () => (await database.query(waits, [id])).length > 0);

  await showConnected(world, other.id, true);
  const full = create(ReportRequestSchema, { full: true, machines: [...other.manager.list()] });
  await replica.engine.reports.report(other.id, full);
  await until(() => other.manager.list().length === 0, 10_000);
});

t.test(
  "hosts that have accepted more than a database knows that was put back from a backup are commanded on",
  async (t) => {
    const world = await worldOf(t, { hosts: 1 });
    const replica = await replicaOf(t, world);
    const id = await runningInstance(world, replica);
    await world.untilSettled(id, "running");
    await world.database.query("update work set lease_epoch = lease_epoch + 1000 where key = $1", [id]);
    await replica.resources.update(testCtx(), instance, id, { spec: { cpus: 2 } }, quietly);
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

import { create } from "@bufbuild/protobuf";
import t from "tap";
import type { ForeignMachine } from "#agent/drivers/driver.ts";
import { listForeign } from "#agent/machines/foreign.ts";
import { Adoption, type AdoptionWish } from "#cp/app/adoption.ts";
import type { Resource } from "#cp/resources/definition.ts";
import { host as hostKind, type Host } from "#cp/resources/host/host.resource.ts";
import { instance } from "#cp/resources/instance/instance.resource.ts";
import { migration } from "#cp/resources/migration/migration.resource.ts";
import { toForeignMachines } from "#cp/engine/host-facts.ts";
import type { ForeignMachines } from "#gen/skerry/agent/v1/machine_pb.js";
import { ReportRequestSchema } from "#gen/skerry/control/v1/control_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { Skerry } from "#sdk/client.ts";
import { hostId, startApi } from "#test/support/api-world.ts";
import { createInstance, fakeHostStatus, quietly, testCtx, World } from "#test/support/engine-world.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { reasonOf } from "#test/support/reason-of.ts";

// Instances made of machines that a host had before: real agents' managers, with a driver that has some.

const GiB = 1024n ** 3n;
const ctx = testCtx();

const there = (n: number, change: Partial<ForeignMachine> = {}): ForeignMachine => ({
  ...{ uuid: `00000000-0000-4000-8000-00000000000${String(n)}`, name: `old-${String(n)}`, state: "running" },
  ...{ vcpus: 2, memoryBytes: GiB + 1n, disks: [{ target: "vda", sizeBytes: 2n * GiB + 1n, format: "raw" }] },
  obstacles: [],
  ...change,
});
const odd = [
  { code: "nics", message: "it has 2 network cards" },
  { code: "passthrough", message: "a device of the host is passed through to it" },
];

const world = await World.start(await withDatabase(t), { hosts: 1 });
const replica = await world.replica();
const { engine, resources } = replica;
t.teardown(async () => {
  await replica.stop();
  await world.stop();
});
const host = world.hosts[0]!;
const adoption = new Adoption({ resources, database: world.database });
host.driver.foreign.set([
  there(1),
  there(2, { state: "stopped" }),
  there(3, { obstacles: odd }),
  there(4, { vcpus: 64 }),
]);
await report();

await t.test("the host's status lists them, with what stands in the way", async (t) => {
  const { observed } = (await resources.get(ctx, hostKind, host.id)) as Host;
  t.match(observed?.foreign_machines, [
    { name: "old-1", state: "running", cpus: 2, disks: [{ target: "vda", format: "raw" }], obstacles: [] },
    { name: "old-2", state: "stopped" },
    { name: "old-3", obstacles: odd },
    { name: "old-4" },
  ]);
});

await t.test(
  "one becomes an instance as it is, holds its capacity, and is deleted as its owner says",
  async (t) => {
    const id = await adopt({ machine: "old-1", name: "web" });
    await world.untilSettled(id, "running");
    const adopted = await world.find(id);
    t.match(adopted, {
      name: "web",
      hostId: host.id,
      desired: { image: null, cpus: 2, memory_bytes: 1025 * 1024 ** 2, disk_bytes: 2 * 1024 ** 3 },
      placement: { provider: "site-1" },
    });
    t.same(await world.violations(), [], "what it takes is promised");
    await report();
    t.equal(await reasonOf(adopt({ machine: "old-1" })), "ALREADY_ADOPTED");
    t.equal(
      await reasonOf(resources.create(ctx, migration, { name: "m", spec: { instance: id } }, quietly)),
      "ADOPTED_STAYS",
    );
    const change = (spec: unknown) => resources.update(ctx, instance, id, { spec }, quietly);
    t.equal(await reasonOf(change({ adopted: { uuid: there(2).uuid } })), "VALIDATION_ERROR");
    t.equal(await reasonOf(change({ forwards: [{ guest_port: 80 }] })), "VALIDATION_ERROR");
    await resources.invoke(ctx, instance, id, "stop", {}, quietly);
    await world.untilSettled(id, "stopped");
    await resources.invoke(ctx, instance, id, "start", {}, quietly);
    await world.untilSettled(id, "running");
    await resources.delete(ctx, instance, id, quietly);
    await world.untilPhase(id, undefined);
    t.match(
      await host.driver.foreign.list(),
      [{ name: "old-1", state: "stopped" }, {}, {}, {}],
      "its disk stays",
    );

    await report();
    const again = await adopt({ machine: there(1).uuid });
    await world.untilSettled(again, "stopped");
    await resources.update(
      ctx,
      instance,
      again,
      { spec: { adopted: { on_delete: "delete-disks" } } },
      quietly,
    );
    await resources.delete(ctx, instance, again, quietly);
    await world.untilPhase(again, undefined);
    t.equal((await host.driver.foreign.list()).length, 3, "or goes");
    t.same(await world.lastingViolations(), []);
  },
);

await t.test("what cannot be is refused, and leaves the machine alone", async (t) => {
  t.equal(await reasonOf(adopt({ machine: "old-3" })), "NOT_ADOPTABLE");
  t.equal(await reasonOf(adopt({ machine: "nobody" })), "MACHINE_NOT_FOUND");
  const operator = { ...ctx, principal: { ...ctx.principal, role: "operator" as const } };
  t.equal(await reasonOf(adoption.adopt(operator, host.id, { machine: "old-2" }, quietly)), "ROLE_TOO_LOW");
  const adopted = { host_id: host.id, uuid: there(2).uuid, name: "old-2" };
  t.equal(await reasonOf(createInstance(resources, { image: null, adopted })), "VALIDATION_ERROR");
  t.equal(await reasonOf(createInstance(resources, { image: null })), "VALIDATION_ERROR");
  const taken = await Promise.allSettled([1, 2, 3].map(() => adopt({ machine: "old-2" })));
  t.equal(taken.filter(({ status }) => status === "fulfilled").length, 1, "one of many at once");

  const large = await adopt({ machine: "old-4" });
  await world.untilPhase(large, "failed");
  t.match((await world.find(large))?.problem, { reason: "NO_CAPACITY", stuck: true });
  await resources.delete(ctx, instance, large, quietly);
  await world.untilPhase(large, undefined);
  t.match(await host.driver.foreign.list(), [{ name: "old-3" }, { name: "old-4", state: "running" }]);

  // The host finds out that it is not as it was reported.
  host.driver.foreign.set([there(5)]);
  await report();
  host.driver.foreign.set([there(5, { obstacles: odd })]);
  const changed = await adopt({ machine: "old-5" });
  await world.untilPhase(changed, "failed");
  t.match((await world.find(changed))?.problem, { reason: "NOT_ADOPTABLE" });
  t.match(await host.driver.foreign.list(), [{ name: "old-5", state: "running" }], "it runs on");
});

await t.test("over HTTP, by the SDK", async (t) => {
  const api = await startApi(t);
  const machines = toForeignMachines(await told());
  const capacity = { cpus: 4, memory_bytes: 1, disk_bytes: 1 };
  const status = {
    ...fakeHostStatus("site-a", capacity),
    foreign_machines: [{ ...machines[0], obstacles: [] }],
  };
  await api.database.query("update resource set observed = $2 where id = $1", [hostId, status]);
  const { hosts, instances } = new Skerry({ url: api.url, token: api.pair.access_token });
  t.match((await hosts.get(hostId)).status?.foreign_machines, [
    { name: "old-5", disks: [{ target: "vda" }] },
  ]);
  const made = await hosts.adopt(hostId, { machine: "old-5", name: "web" });
  t.match(made, { name: "web", phase: "pending", spec: { image: null, adopted: { name: "old-5" } } });
  t.equal(await reasonOf(hosts.adopt(hostId, { machine: "old-5" })), "ALREADY_ADOPTED");
  const { possible, blockers } = await instances.planMigration(made.id);
  t.equal(possible, false);
  const why = blockers.find(({ code }) => code === "adopted")?.message ?? "";
  t.match(why, /it was adopted: .* so it stays there/, "a dry run says why it does not move");
});

/** What the agent's reporter would tell. */
async function report(): Promise<void> {
  await engine.reports.report(host.id, create(ReportRequestSchema, { foreign: await told() }));
}

async function told(): Promise<ForeignMachines> {
  const foreign = await listForeign(host.driver, silentLogger);
  if (foreign) return foreign;
  throw new Error("the driver cannot tell");
}

async function adopt(wish: AdoptionWish): Promise<string> {
  let id = "";
  const respond = (made: Resource) => {
    id = made.id;
    return { status: 201, headers: {}, body: null };
  };
  await adoption.adopt(ctx, host.id, wish, { respond });
  return id;
}

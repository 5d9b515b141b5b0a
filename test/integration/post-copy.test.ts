/** Post-copy from the request to its end: real engines on a real database, real agents with fake machines. */
import t, { type Test } from "tap";
import { resourceColumns, toResource, type ResourceRow } from "#cp/engine/rows.ts";
import type { Resource } from "#cp/resources/definition.ts";
import { migration, type Migration } from "#cp/resources/migration/migration.resource.ts";
import type { Reply } from "#cp/app/resource-api.ts";
import { createInstance, testCtx, World } from "#test/support/engine-world.ts";
import { MovingHost } from "#test/support/moving-host.ts";
import { PipedMoves } from "#test/support/piped-moves.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { until } from "#test/support/until.ts";

const databaseUrl = await withDatabase(t);

/** A guest that writes faster than it leaves, on its way. */
async function begin(t: Test) {
  const moves = new PipedMoves();
  const knobs = { tickMs: 5, dirtyPages: 16, postCopy: true, pagesPerSecond: 4000 };
  const world = await World.startWith(databaseUrl, (id) => MovingHost.start(id, { moves, knobs }));
  const replica = await world.replica();
  t.teardown(async () => {
    await replica.stop();
    await world.stop();
  });
  await world.database.query(
    `update resource set observed = jsonb_set(observed, '{capabilities}', '["migration", "migration.postcopy"]')
     where kind = 'host'`,
  );
  const vm = await createInstance(replica.resources);
  await world.untilSettled(vm, "running");
  const hostOf = async () => {
    const found = await world.find(vm);
    const host = world.hosts.find(({ id }) => id === found?.hostId);
    if (!host) throw new Error("it is on no host");
    return host;
  };
  const source = await hostOf();
  const target = world.hosts.find((host) => host !== source)!;
  let id = "";
  const spec = { instance: vm, on_unreachable: "postcopy", max_downtime_ms: 1 };
  const respond = (resource: Resource): Reply => {
    id = resource.id;
    return { status: 201, headers: {}, body: null };
  };
  const start = () => replica.resources.create(testCtx(), migration, { name: "move", spec }, { respond });
  const read = async (): Promise<Migration> => {
    const text = `select ${resourceColumns} from resource where id = $1`;
    const [row] = await world.database.query<ResourceRow>(text, [id]);
    return toResource(row!) as Migration;
  };
  const untilPhase = (phase: string) => until(async () => (await read()).phase === phase);
  return { world, vm, source, target, hostOf, start, read, untilPhase, moves };
}

t.test("the guest runs at the target, and its memory follows it", async (t) => {
  const { world, vm, source, target, hostOf, start, read, untilPhase, moves } = await begin(t);
  source.driver.set({ hold: ["post-copy"] });
  await start();
  await untilPhase("post-copy");
  t.equal(await hostOf(), target, "it is the target's");
  t.ok((await read()).observed?.committed_at, "and that was committed");
  source.driver.set({ hold: [], pagesPerSecond: 100 });
  await until(() => target.driver.inspect(vm).then((found) => found?.state === "running"));
  moves.cut("memory");
  await target.kill();
  await target.revive();
  target.connected = true;
  await untilPhase("complete");
  const { observed } = await read();
  t.match(observed, { type: "postcopy", error: null });
  t.ok((observed?.receipt?.convergence?.stalls ?? 0) > 0, "the receipt tells why it came to that");
  t.ok((observed?.receipt?.convergence?.post_copy_bytes ?? 0) > 0);
  t.ok((observed?.receipt?.convergence?.recoveries ?? 0) > 0);
  await world.untilSettled(vm, "running");
  await until(async () => (await world.violations()).length === 0);
  t.pass("nothing is left of it at the source");
});

t.test("memory that is lost with the source is told, and the guest starts from its disk", async (t) => {
  const { world, vm, source, target, hostOf, start, read, untilPhase } = await begin(t);
  source.driver.set({ hold: ["post-copy"] });
  await start();
  await untilPhase("post-copy");
  source.driver.set({ hold: [], pagesPerSecond: 20 });
  await until(async () => (await target.driver.inspect(vm))?.state === "running");
  source.driver.set({ crash: ["*"] });
  await untilPhase("failed");
  const { observed } = await read();
  t.match(observed?.error, { reason: "GUEST_LOST", message: new RegExp(`lost with host ${source.id}`) });
  await world.untilSettled(vm, "running");
  t.equal(await hostOf(), target);
  await until(async () => (await world.violations()).length === 0);
  t.pass("it runs there and nowhere else");
});

/**
 * The control plane dies by kill -9 again and again while many clients create, stop, start, grow and delete
 * instances. A client that got no answer asks again, with the same key. In the end there is exactly what was
 * asked for, on every side.
 */
import t from "tap";
import { startCloud } from "#test/support/cloud.ts";
import { until } from "#test/support/until.ts";
import { Customer } from "./customer.ts";
import { expectedState, observeState, openDatabase, seededRandom, untilQuiet } from "./faults-world.ts";

const customers = 12;
const kills = 4;
const seed = Number(process.env["SKERRY_TEST_SEED"] ?? Date.now() % 1_000_000);
t.comment(`seed ${String(seed)}: SKERRY_TEST_SEED repeats it`);
const random = seededRandom(seed);

const cloud = await startCloud(t, { controlPlaneEnv: { SKERRY_OVERCOMMIT_CPUS: "100" } });
const database = openDatabase(t, cloud);

await t.test("exactly what was asked for, however often it dies", async (t) => {
  const shopping = Array.from(
    { length: customers },
    (_, index) => new Customer(cloud, `c${String(index)}`, seededRandom(seed + index + 1)),
  );
  const answered = () => shopping.reduce((sum, customer) => sum + customer.answered, 0);
  const repeated = () => shopping.reduce((sum, customer) => sum + customer.repeated, 0);
  const closing = new AbortController();
  const done = Promise.all(shopping.map((customer) => customer.run(closing.signal)));
  done.catch(() => closing.abort());

  for (let kill = 0; kill < kills && !closing.signal.aborted; kill++) {
    const enough = answered() + 20 + Math.floor(random() * 40);
    // Which instruction it dies at is chance; the count before it is not.
    await until(() => answered() >= enough || closing.signal.aborted);
    await cloud.controlPlane.kill();
    const dead = answered();
    await cloud.controlPlane.start();
    t.comment(`killed after ${String(dead)} answers, ${String(repeated())} asked again so far`);
  }
  const last = answered() + 40;
  await until(() => answered() >= last || closing.signal.aborted);
  closing.abort();
  await done;

  await cloud.untilHosts("online");
  await untilQuiet(database);
  const wanted = shopping.flatMap((customer) => customer.wanted ?? []);
  t.ok(repeated() > 0, "some requests were cut off");
  t.ok(wanted.length > 0, "something is left to compare");
  t.same(await observeState(cloud, database), expectedState(wanted));

  const gone = shopping.flatMap((customer) => customer.deleted);
  const buried = await database.query("select id from tombstone where kind = 'instance'");
  t.same(buried.map(({ id }) => id).sort(), gone.sort(), "what was deleted was erased, and nothing else");
  const doubles = await database.query(
    "select name from resource where kind = 'instance' group by name having count(*) > 1",
  );
  t.same(doubles, [], "no request was carried out twice");
});

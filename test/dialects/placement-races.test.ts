/** Two replicas place at once on one database, each with its own picture of the hosts: promises are never broken. */
import t from "tap";
import { reserve } from "#cp/engine/capacity.ts";
import { CachedFleet, type PlaceRequest } from "#cp/engine/fleet.ts";
import { Promises } from "#cp/engine/promises.ts";
import { placementRequest } from "#cp/resources/instance/instance.place.ts";
import { instanceSpec, type Instance } from "#cp/resources/instance/instance.resource.ts";
import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import { Database } from "#cp/store/database.ts";
import { isFault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { withDatabase } from "#test/support/postgres.ts";

const GiB = 1024 ** 3;
const MiB = 1024 ** 2;
const hosts = 12;
const wanted = 160;

const url = await withDatabase(t);
const open = () => {
  const database = new Database({ url, maxConnections: 8, log: silentLogger });
  t.teardown(() => database[Symbol.asyncDispose]());
  return database;
};
const [one, two] = [open(), open()] as const;

/** What the n-th asks: some a GPU, some to share a host or not to, some to be spread; more in all than there is room. */
function constraintsOfNth(n: number): object {
  const rules = ["different-hosts", "same-host", "spread-zones"] as const;
  const rule = rules[n % 5];
  return {
    ...(rule && { groups: [{ name: `${rule}-${String(n % 3)}`, rule }] }),
    ...(n % 4 === 3 && { gpu: { count: 1 } }),
  };
}

await one.query(
  `insert into resource (id, kind, project, name, desired, observed, phase)
   select 'host-' || i, 'host', 'root', 'host-' || i,
     jsonb_build_object('provider', 'p', 'region', 'r', 'zone', 'z' || i % 3, 'cordoned', false, 'location', null, 'prices', null,
       'overcommit', '{"cpus":1,"memory":1,"disk":1}'::jsonb, 'gpus', '{"model":"A","count":2}'::jsonb),
     jsonb_build_object('connected', true, 'architecture', 'x86_64', 'capabilities', '["gpu"]'::jsonb,
       'capacity', jsonb_build_object('cpus', 8, 'memory_bytes', 8::bigint * $2, 'disk_bytes', 100::bigint * $2)), 'online'
   from generate_series(1, $1::int) i`,
  [hosts, GiB],
);
const specs = Array.from({ length: wanted }, (_, n) =>
  instanceSpec.parse({
    image: "micro",
    ...{ cpus: 1 + (n % 2), memory_bytes: 512 * MiB, disk_bytes: 4 * GiB },
    constraints: constraintsOfNth(n),
  }),
);
await one.query(
  `insert into resource (id, kind, project, name, desired, phase)
   select 'vm-' || (n - 1), 'instance', 'root', 'vm-' || (n - 1), spec, 'pending'
   from jsonb_array_elements($1::jsonb) with ordinality as s(spec, n)`,
  [JSON.stringify(specs)],
);
await one.query(
  "insert into work (key, kind, lease_epoch) select id, kind, 1 from resource where kind = 'instance'",
);

interface Replica {
  readonly fleet: CachedFleet;
  readonly promises: Promises;
}

/** As the engine does; false when nothing had room. */
async function placeNth({ fleet, promises }: Replica, n: number): Promise<boolean> {
  const id = `vm-${String(n)}`;
  const desired = specs[n];
  if (!desired) throw new RangeError(id);
  const resource: Pick<Instance, "id" | "project" | "desired"> = { id, project: "root", desired };
  const request: PlaceRequest = { ...placementRequest(resource, undefined), seed: id };
  const claim = { key: id, kind: "instance", epoch: 1, dirtySeq: 1, attempt: 1 };
  const { cpus, memoryBytes, diskBytes } = request;
  for (let attempt = 0; attempt < 20; attempt++) {
    const choice = await fleet.choose(request);
    if ("unplaceable" in choice) return false;
    for (const host of choice.hosts) {
      const asked = { hostId: host.id, cpus, memoryBytes, diskBytes };
      try {
        await fleet.taking(host.id, asked, () => promises.make(claim, asked));
        return true;
      } catch (error) {
        if (!isFault(error, "exhausted")) throw error;
      }
    }
    fleet.refresh();
  }
  return false;
}

await t.test("no host gives more than it has, and groups keep to their rules", async (t) => {
  const replicas = [one, two].map((database) => ({
    fleet: new CachedFleet(database, defaultPolicy(), Date.now),
    promises: new Promises(database),
  }));
  const placed = await Promise.all(
    specs.flatMap((_, n) => {
      const replica = replicas[n % 2];
      return replica ? [placeNth(replica, n)] : [];
    }),
  );
  const count = placed.filter(Boolean).length;
  t.ok(count > 40 && count < wanted, `${String(count)} found room, the others none`);

  const over = await one.query(
    `select host_id from host_capacity c join (select host_id, sum(cpus) as cpus, sum(memory_bytes) as memory,
       sum(disk_bytes) as disk, sum(gpus) as gpus from reservation group by host_id) u using (host_id)
     where u.cpus > c.cpus or u.memory > c.memory_bytes or u.disk > c.disk_bytes or u.gpus > c.gpus`,
  );
  t.strictSame(over, [], "nothing is promised twice");
  const [promised] = await one.query<{ all: number; gpus: number }>(
    "select count(*) as all, sum(gpus)::bigint as gpus from reservation",
  );
  t.equal(promised?.all, count);
  t.ok((promised?.gpus ?? 0) > 0 && (promised?.gpus ?? 0) <= 2 * hosts, "GPUs were given");
  const together = await one.query(
    `select g from reservation, unnest(groups) g where g like '%same-host%' group by g having count(distinct host_id) > 1`,
  );
  t.strictSame(together, [], "those that share a host do");
  const apart = await one.query(
    `select g, host_id from reservation, unnest(apart) g group by g, host_id having count(*) > 1`,
  );
  t.strictSame(apart, [], "those that are to be apart are");
  const [groups] = await one.query<{ apart: number; together: number }>(
    `select count(*) filter (where apart <> '{}') as apart,
       count(*) filter (where groups <> '{}' and apart = '{}') as together from reservation`,
  );
  t.ok((groups?.apart ?? 0) > 3 && (groups?.together ?? 0) > 3, "there were some of both");
});

await t.test("of promises that are asked for together each has its own answer", async (t) => {
  await one.query("delete from reservation");
  const asked: string[] = [];
  const promises = new Promises({
    query: (text, values, name) => {
      asked.push(name ?? text);
      return one.query(text, values, name);
    },
  });
  // Of these numbers none is given a group or a GPU.
  const plain = (nth: number) => nth * 20 + 4;
  const ask = async (n: number, hostId: string, cpus: number, epoch = 1) => {
    const claim = { key: `vm-${String(n)}`, kind: "instance", epoch, dirtySeq: 1, attempt: 1 };
    const request = { hostId, cpus, memoryBytes: 512 * MiB, diskBytes: 4 * GiB };
    return promises.make(claim, request).then(
      () => "promised",
      (error: unknown) => (isFault(error) ? error.reason : error),
    );
  };
  const first = ask(plain(0), "host-1", 1);
  const together = await Promise.all([
    ask(plain(1), "host-1", 4),
    ask(plain(2), "host-1", 3),
    ask(plain(3), "host-1", 2),
    ask(plain(4), "host-2", 2),
    ask(plain(4), "host-3", 2, 7),
    ask(plain(5), "host-2", 1, 7),
    ask(plain(6), "host-2", 9),
    ask(plain(0), "host-4", 1),
  ]);
  t.equal(await first, "promised");
  t.strictSame(together, [
    "promised",
    "promised",
    "NO_CAPACITY",
    "promised",
    "LEASE_LOST",
    "LEASE_LOST",
    "NO_CAPACITY",
    "promised",
  ]);
  t.strictSame(
    asked.toSorted(),
    [...Array<string>(5).fill("capacity_promise"), ...Array<string>(2).fill("capacity_promise_together")],
    "only those that something stood in the way of asked by themselves",
  );
  const kept = await one.query(
    "select resource_id, host_id, cpus from reservation order by cpus, resource_id",
  );
  t.strictSame(kept, [
    { resource_id: "vm-4", host_id: "host-4", cpus: 1 },
    { resource_id: "vm-84", host_id: "host-2", cpus: 2 },
    { resource_id: "vm-44", host_id: "host-1", cpus: 3 },
    { resource_id: "vm-24", host_id: "host-1", cpus: 4 },
  ]);
});

await t.test("nor those of GPUs for containers, which are none for virtual machines", async (t) => {
  const gpus = 3;
  await one.query(
    `insert into resource (id, kind, project, name, desired, observed, phase)
     select 'host-gpu', kind, project, 'host-gpu', desired || '{"gpus":null}', observed || jsonb_build_object('capabilities',
         '["containers","gpu"]'::jsonb, 'containers', jsonb_build_object('engine', 'fake', 'version', '1', 'reason', '',
           'gpus', (select jsonb_agg(jsonb_build_object('device', 'v.test/gpu=' || i, 'vendor', 'v.test', 'model', ''))
                    from generate_series(1, $1::int) i))), phase
     from resource where id = 'host-1'`,
    [gpus],
  );
  const ids = Array.from({ length: 8 }, (_, n) => `wl-${String(n)}`);
  await one.query(
    `insert into resource (id, kind, project, name, desired, phase)
     select id, 'workload', 'root', id, '{"gpus":1}', 'pending' from unnest($1::text[]) id`,
    [ids],
  );
  const small = { hostId: "host-gpu", cpus: 1, memoryBytes: MiB, diskBytes: MiB };
  const answers = await Promise.allSettled(
    ids.map((id, n) => (n % 2 === 0 ? one : two).transaction((tx) => reserve(tx, id, small))),
  );
  const refused = answers.filter(({ status }) => status === "rejected") as PromiseRejectedResult[];
  t.equal(refused.length, ids.length - gpus, "so many have room, and one GPU each");
  for (const { reason } of refused) t.match(reason, { code: "exhausted", message: /too little GPUs/ });

  const fleet = new CachedFleet(one, defaultPolicy(), Date.now);
  const choose = async (wish: Partial<PlaceRequest>) => {
    const request = { ...small, imageArchitecture: "x86_64", host: "host-gpu", seed: "x", ...wish };
    const choice = await fleet.choose(request);
    return "unplaceable" in choice ? choice.why : choice.hosts.map(({ id }) => id).join();
  };
  t.match(await choose({ containerGpus: 1 }), /0 of 3 GPUs free/);
  t.match(await choose({ gpus: 1 }), /0 of 0 GPUs free/, "and a virtual machine gets none of them");
  t.equal(await choose({}), "host-gpu", "which stops nobody else");
});

import { CachedFleet } from "#cp/engine/fleet.ts";
import { Promises } from "#cp/engine/promises.ts";
import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import type { HostSnapshot, PlacementRequest } from "#cp/scheduler/snapshot.ts";
import { Database } from "#cp/store/database.ts";
import { migrate } from "#cp/store/migrate.ts";
import { isFault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { benchDatabase } from "./database.ts";
import type { BenchContext, Measures } from "./benchmark.ts";
import { timeInFlight } from "./in-flight.ts";
import { cpuSecondsOfFamily } from "./process-usage.ts";
import { median, percentile, round } from "./statistics.ts";

const commits = 4_000;
const warmUp = 500;
const inFlight = 16;
const claim = { kind: "instance", epoch: 1, dirtySeq: 1, attempt: 1 };

/**
 * What a placement costs with the database: the choice, the promise of capacity, and the transaction that puts it
 * down durably. The fleet's load is in the database as one reservation a host.
 */
export async function measureCommits(
  bench: BenchContext,
  hosts: readonly HostSnapshot[],
  next: () => PlacementRequest,
): Promise<Measures> {
  const { url, pid } = await benchDatabase(bench);
  const database = new Database({ url, maxConnections: 16, log: silentLogger });
  bench.teardown(() => database[Symbol.asyncDispose]());
  await migrate(database, new URL("../../../control-plane/store/migrations/", import.meta.url), silentLogger);
  bench.say("Filling the database ...");
  await fill(database, hosts, warmUp + commits);
  const fleet = new CachedFleet(database, defaultPolicy(), Date.now);
  const promises = new Promises(database);
  let refused = 0;
  const commit = async (index: number, attempt = 1): Promise<void> => {
    const { cpus, memoryBytes, diskBytes, ...where } = next();
    const amounts = { cpus, memoryBytes, diskBytes };
    const id = `vm-${index}`;
    const choice = await fleet.choose({ ...amounts, ...where, seed: id });
    if ("unplaceable" in choice) throw new Error(choice.why);
    for (const host of choice.hosts) {
      try {
        const request = { hostId: host.id, ...amounts };
        await fleet.taking(host.id, amounts, () => promises.make({ ...claim, key: id }, request));
      } catch (error) {
        if (!isFault(error, "exhausted")) throw error;
        refused++;
        continue;
      }
      const placement = JSON.stringify({ host_id: host.id, explanation: choice.explanation });
      await database.query(
        "update resource set placement = $2, host_id = $3 where id = $1",
        [id, placement, host.id],
        "bench_place",
      );
      fleet.poke();
      return;
    }
    // As the engine does: others were quicker with every host of this choice, so it is made afresh.
    if (attempt === 5) throw new Error("every host of five choices was full");
    fleet.refresh();
    await commit(index, attempt + 1);
  };
  await timeInFlight(warmUp, inFlight, (index) => commit(index));
  const databaseBefore = await cpuSecondsOfFamily(pid);
  const ownBefore = process.cpuUsage();
  const started = performance.now();
  const durations = await timeInFlight(commits, inFlight, (index) => commit(warmUp + index));
  const seconds = (performance.now() - started) / 1000;
  const own = process.cpuUsage(ownBefore);
  const databaseSeconds = (await cpuSecondsOfFamily(pid)) - databaseBefore;
  const [over] = await database.query<{ hosts: number }>(
    `select count(*) as hosts from host_capacity c join (select host_id, sum(cpus) as cpus, sum(memory_bytes) as memory,
       sum(disk_bytes) as disk from reservation group by host_id) u using (host_id)
     where u.cpus > c.cpus or u.memory > c.memory_bytes or u.disk > c.disk_bytes`,
  );
  return {
    committed_per_s: Math.round(commits / seconds),
    commit_p50_ms: round(median(durations)),
    commit_p99_ms: round(percentile(durations, 0.99)),
    commit_cpu_ms: round((own.user + own.system) / 1000 / commits),
    commit_database_cpu_ms: round((databaseSeconds * 1000) / commits),
    refused_for_room: refused,
    hosts_over_capacity: over?.hosts ?? 0,
  };
}

async function fill(database: Database, hosts: readonly HostSnapshot[], instances: number): Promise<void> {
  const rows = hosts.map((host) => ({
    id: host.id,
    desired: {
      ...{ provider: host.provider, region: host.region, zone: host.zone, cordoned: host.cordoned },
      location: { ...host.location, city: "", country: "" },
      prices: {
        cpu_per_hour: host.prices?.cpuPerHour,
        memory_per_gb: host.prices?.memoryGibPerHour,
        currency: "USD",
      },
      overcommit: { cpus: 1, memory: 1, disk: 1 },
    },
    observed: {
      ...{ connected: host.online, architecture: host.architecture, cpu_baseline: host.cpuBaseline },
      capacity: {
        cpus: host.capacity.cpus,
        memory_bytes: host.capacity.memoryBytes,
        disk_bytes: host.capacity.diskBytes,
      },
    },
    used: host.used,
  }));
  await database.query(
    `with given as (select * from jsonb_to_recordset($1::jsonb) as r(id text, desired jsonb, observed jsonb, used jsonb)),
       hosts as (insert into resource (id, kind, project, name, desired, observed, phase)
         select id, 'host', 'root', id, desired, observed, 'online' from given)
     insert into reservation (resource_id, host_id, cpus, memory_bytes, disk_bytes)
     select 'before-' || id, id, (used ->> 'cpus')::bigint, (used ->> 'memoryBytes')::bigint, (used ->> 'diskBytes')::bigint
     from given`,
    [JSON.stringify(rows)],
  );
  await database.query(
    `insert into resource (id, kind, project, name, desired, phase)
     select 'vm-' || i, 'instance', 'root', 'vm-' || i, '{}', 'pending' from generate_series(0, $1) i`,
    [instances],
  );
  await database.query(
    `insert into work (key, kind, lease_epoch, lease_until) select id, kind, 1, now() + interval '1 hour' from resource
     where kind = 'instance'`,
  );
  await database.query("analyze");
}

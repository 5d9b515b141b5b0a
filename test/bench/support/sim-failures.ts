/** Cuts the fullest hosts off for good, and follows what ran on them until it runs elsewhere. */
import type { Database } from "#cp/store/database.ts";
import { isFault } from "#kernel/fault.ts";
import type { AgentSwarm } from "#test/support/agent-swarm.ts";
import { until } from "#test/support/until.ts";
import type { BenchContext, Measures } from "./benchmark.ts";
import type { Plan } from "./sim-plan.ts";
import { median, percentile, round } from "./statistics.ts";

interface World {
  readonly plan: Plan;
  readonly database: Database;
  readonly swarm: AgentSwarm;
  readonly leaseSeconds: number;
}

/** One host of a hundred. */
const failingShare = 0.01;
const limitLeases = 5;
const lookMs = 250;

export async function failHosts(
  bench: BenchContext,
  { plan, database, swarm, leaseSeconds }: World,
): Promise<Measures> {
  const names = plan.hosts.filter(({ canBeCut }) => canBeCut).map(({ name }) => name);
  const failing = await database.query<{ id: string; name: string; machines: string[] }>(
    `select h.id, h.name, array_agg(r.id) as machines from resource h
     join resource r on r.host_id = h.id and r.kind = 'instance' and r.deleting_at is null
     where h.kind = 'host' and h.name = any($1) group by h.id, h.name order by count(*) desc, h.id limit $2`,
    [names, Math.max(1, Math.round(plan.hosts.length * failingShare))],
  );
  const machines = failing.flatMap((host) => host.machines);
  if (machines.length === 0) return { failed_hosts: 0, failed_machines: 0 };
  bench.say(`${String(failing.length)} hosts with ${String(machines.length)} machines fail ...`);
  const lost = new Map<string, number>();
  const back = new Map<string, number>();
  const ids = failing.map(({ id }) => id);
  for (const { name } of failing) swarm.cut(name);
  const failed = performance.now();
  const allBack = async () => {
    const seconds = (performance.now() - failed) / 1000;
    for (const id of await listLost(database, ids)) if (!lost.has(id)) lost.set(id, seconds);
    for (const id of await listBack(database, machines, ids)) if (!back.has(id)) back.set(id, seconds);
    return back.size === machines.length;
  };
  await until(allBack, limitLeases * leaseSeconds * 1000, lookMs).catch(async (error: unknown) => {
    if (!isFault(error, "unavailable")) throw error;
    for (const why of await tellWhy(database, machines, ids)) bench.say(why);
  });
  const [lostAfter, backAfter] = [[...lost.values()], [...back.values()]];
  const figures = { failed_hosts: failing.length, failed_machines: machines.length, recovered: back.size };
  if (lostAfter.length === 0 || backAfter.length === 0) return figures;
  return {
    ...figures,
    lost_p50_s: round(median(lostAfter)),
    lost_max_s: round(Math.max(...lostAfter)),
    recovery_p50_s: round(median(backAfter)),
    recovery_p99_s: round(percentile(backAfter, 0.99)),
    recovery_max_s: round(Math.max(...backAfter)),
  };
}

/** What keeps those that are not back, in the words that their owners are given. */
async function tellWhy(
  database: Database,
  machines: readonly string[],
  failing: readonly string[],
): Promise<string[]> {
  const rows = await database.query<{ why: string }>(
    `select name || ': ' || coalesce(observed #>> '{silence,message}', 'it is heard of') as why from resource where id = any($2)
     union all select count(*) || ' ' || phase || ': ' || coalesce(problem ->> 'message', 'no problem') from resource
       where id = any($1) and not (host_id <> all($2) and phase = 'running') group by phase, problem ->> 'message'`,
    [machines, failing],
  );
  return rows.map(({ why }) => why);
}

async function listLost(database: Database, hosts: readonly string[]): Promise<string[]> {
  const rows = await database.query<{ id: string }>(
    "select host_id as id from host_session where host_id = any($1) and lost_at is not null",
    [hosts],
  );
  return rows.map(({ id }) => id);
}

/** Those that run on a host that has not failed. */
async function listBack(
  database: Database,
  machines: readonly string[],
  failing: readonly string[],
): Promise<string[]> {
  const rows = await database.query<{ id: string }>(
    "select id from resource where id = any($1) and host_id <> all($2) and phase = 'running'",
    [machines, failing],
  );
  return rows.map(({ id }) => id);
}

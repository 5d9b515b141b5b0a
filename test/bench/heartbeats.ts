import { setTimeout as pause } from "node:timers/promises";
import { Database } from "#cp/store/database.ts";
import { isFault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { until } from "#test/support/until.ts";
import { numberOf } from "./support/arguments.ts";
import type { Benchmark } from "./support/benchmark.ts";
import { cpuSeconds, residentMib } from "./support/process-usage.ts";
import { round } from "./support/statistics.ts";
import { swarmCloud } from "./support/swarm.ts";

const heartbeatSeconds = 10;
/** A host without machines that hang on its lease reports every two thirds of it. */
const leaseSeconds = heartbeatSeconds * 1.5;
const settleSeconds = 10;
const measuredSeconds = 30;
const backLimitMs = 120_000;
const GiB = 1024 ** 3;

export const benchmark: Benchmark = {
  summary:
    "What agents cost one control-plane process (--agents 3000), each connected by mutual TLS and heard every 10 s: CPU and " +
    "resident memory; then `kill -9`, a new start, and how long until every one of them has been heard again.",

  async run(bench) {
    const agents = numberOf(bench.args, "agents", 3_000);
    const hosts = Array.from({ length: agents }, (_, index) => ({
      name: `host-${index}`,
      labels: { provider: "bench", region: `region-${index % 20}`, zone: `zone-${index % 200}` },
      capacity: { cpus: 64, memoryBytes: 64 * GiB, diskBytes: 1000 * GiB },
      canBeCut: false,
    }));
    const world = await swarmCloud(bench, {
      ...{ hosts, controlPlaneEnv: {} },
      pace: { leaseSeconds, sampleSeconds: heartbeatSeconds, keepAliveSeconds: 15 },
    });
    const { cloud, swarm } = world;
    const database = new Database({ url: world.database.url, maxConnections: 2, log: silentLogger });
    bench.teardown(() => database[Symbol.asyncDispose]());
    const read = async () => {
      const [row] = await database.query<Beats>(beats);
      if (!row) throw new Error("a sum without a group gives one row");
      return row;
    };
    bench.say("All have joined; what follows from that ends first ...");
    await pause(settleSeconds * 1000, undefined, { signal: bench.signal });

    const swarmCpu = async () =>
      (await Promise.all(swarm.pids.map(cpuSeconds))).reduce((sum, each) => sum + each, 0);
    const [cpuBefore, swarmBefore] = [await cpuSeconds(cloud.controlPlane.pid), await swarmCpu()];
    const before = await read();
    const measuredFrom = performance.now();
    await pause(measuredSeconds * 1000, undefined, { signal: bench.signal });
    const seconds = (performance.now() - measuredFrom) / 1000;
    const cpu = (await cpuSeconds(cloud.controlPlane.pid)) - cpuBefore;
    const held = {
      heartbeats_per_s: round(((await read()).total - before.total) / seconds),
      cpu_percent: round((cpu / seconds) * 100),
      swarm_cpu_percent: round((((await swarmCpu()) - swarmBefore) / seconds) * 100),
      resident_mib: round(await residentMib(cloud.controlPlane.pid)),
    };
    bench.say(JSON.stringify(held));

    const earlier = await database.query<{ id: string; seq: number }>(
      "select host_id as id, lease_seq as seq from host_session",
    );
    const swarmAtKill = await swarmCpu();
    await cloud.controlPlane.kill();
    const killed = performance.now();
    await cloud.controlPlane.start();
    const readySeconds = (performance.now() - killed) / 1000;
    const heard = async () => {
      const [row] = await database.query<{ count: number }>(
        `select count(*) from host_session s join replica r on r.id = s.replica_id
         join jsonb_to_recordset($1) as e(id text, seq bigint) on e.id = s.host_id where s.lease_seq > e.seq`,
        [JSON.stringify(earlier)],
      );
      return row?.count ?? 0;
    };
    let halfSeconds: number | undefined;
    let back = 0;
    const allBack = async () => {
      back = await heard();
      if (back * 2 >= agents) halfSeconds ??= (performance.now() - killed) / 1000;
      return back === agents;
    };
    await until(allBack, backLimitMs, 250).catch((error: unknown) => {
      if (!isFault(error, "unavailable")) throw error;
      bench.say(`${String(agents - back)} are not back`);
    });
    return {
      ...{ agents, back },
      joined_s: round(world.joinedSeconds),
      ...held,
      ready_s: round(readySeconds),
      half_back_s: round(halfSeconds ?? 0),
      back_s: round((performance.now() - killed) / 1000),
      back_cpu_s: round(await cpuSeconds(cloud.controlPlane.pid)),
      back_swarm_cpu_s: round((await swarmCpu()) - swarmAtKill),
      taken_for_lost: (await read()).lost,
      connections: swarm.connections,
      resident_after_mib: round(await residentMib(cloud.controlPlane.pid)),
    };
  },
};

interface Beats {
  readonly total: number;
  readonly lost: number;
}

const beats = `select sum(lease_seq)::bigint as total, count(*) filter (where lost_at is not null) as lost
  from host_session`;

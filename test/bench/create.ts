import { cpus } from "node:os";
import type { Skerry } from "#sdk/index.ts";
import { parseTopology } from "#cp/local/topology.ts";
import type { Benchmark } from "./support/benchmark.ts";
import { benchCloud, roomyControlPlane, smallest } from "./support/cloud.ts";
import { InstanceWatch } from "./support/instance-watch.ts";
import { timeInFlight } from "./support/in-flight.ts";
import { cpuSeconds, cpuSecondsOfFamily } from "./support/process-usage.ts";
import { median, percentile, round } from "./support/statistics.ts";

const rounds = 5;
const creates = 500;
const inFlight = 16;
/** They do not count: a control plane and agents in use have their code compiled. */
const warmUpRounds = 2;
/** A host may promise its CPUs this many times. */
const overcommit = Number(roomyControlPlane.SKERRY_OVERCOMMIT_CPUS);

export const benchmark: Benchmark = {
  summary:
    `${creates} creates with ${inFlight} in flight on agents with the fake driver and a database with durable writes: ` +
    `from the request until a client's watch shows \`running\`; ${rounds} rounds, medians of their figures.`,

  async run(bench) {
    const { cloud, client, database } = await benchCloud(bench, {
      agents: listHosts(),
      controlPlaneEnv: roomyControlPlane,
    });
    await using watch = await InstanceWatch.open(client, bench.signal);
    /** CPU time of all that works on a create, so that a machine with other work can be seen through. */
    const usage = async () => ({
      controlPlane: await cpuSeconds(cloud.controlPlane.pid),
      database: await cpuSecondsOfFamily(database.pid),
      agents: await sum(cloud.agents.map(({ program }) => cpuSeconds(program.pid))),
    });
    bench.say("Warming up ...");
    for (let index = 1; index <= warmUpRounds; index++)
      await runRound(client, watch, usage, `warm${index}`, creates);
    const results = [];
    for (let index = 1; index <= rounds; index++) {
      const result = await runRound(client, watch, usage, `r${index}`, creates);
      bench.say(
        `round ${index}: median ${result.medianMs.toFixed(0)} ms, p99 ${result.p99Ms.toFixed(0)} ms, ` +
          `${result.perSecond.toFixed(0)} creates/s, ${result.deletesPerSecond.toFixed(0)} deletes/s`,
      );
      results.push(result);
    }
    return {
      median_ms: round(median(results.map(({ medianMs }) => medianMs))),
      p99_ms: round(median(results.map(({ p99Ms }) => p99Ms))),
      creates_per_s: round(median(results.map(({ perSecond }) => perSecond))),
      control_plane_cpu_ms: round(median(results.map(({ cpuMsPerCreate }) => cpuMsPerCreate.controlPlane))),
      database_cpu_ms: round(median(results.map(({ cpuMsPerCreate }) => cpuMsPerCreate.database))),
      agents_cpu_ms: round(median(results.map(({ cpuMsPerCreate }) => cpuMsPerCreate.agents))),
      deletes_per_s: round(median(results.map(({ deletesPerSecond }) => deletesPerSecond))),
    };
  },
};

interface Usage {
  readonly controlPlane: number;
  readonly database: number;
  readonly agents: number;
}

async function sum(values: readonly Promise<number>[]): Promise<number> {
  return (await Promise.all(values)).reduce((total, value) => total + value, 0);
}

/** As few hosts as can promise all instances a CPU. */
function listHosts() {
  const count = Math.max(2, Math.ceil(creates / (cpus().length * overcommit)));
  const hosts = Array.from({ length: count }, (_, index) => ({
    name: `host-${index + 1}`,
    provider: "bench",
    region: "here",
    driver: "fake",
    share: 1,
  }));
  return parseTopology(JSON.stringify({ hosts })).hosts;
}

/** Creates, waits for each to run, deletes all again. */
async function runRound(
  client: Skerry,
  watch: InstanceWatch,
  usage: () => Promise<Usage>,
  label: string,
  count: number,
) {
  const ids: string[] = [];
  const before = await usage();
  const started = performance.now();
  const durations = await timeInFlight(count, inFlight, async (index) => {
    const name = `${label}-${index}`;
    const running = watch.untilRunning(name);
    const { id } = await client.instances.create({ name, spec: smallest });
    ids.push(id);
    await running;
  });
  const createdSeconds = (performance.now() - started) / 1000;
  const after = await usage();
  const deleting = performance.now();
  await timeInFlight(count, inFlight, async (index) => {
    const id = ids[index] ?? "";
    const gone = watch.untilGone(id);
    await client.instances.delete(id);
    await gone;
  });
  return {
    medianMs: median(durations),
    p99Ms: percentile(durations, 0.99),
    cpuMsPerCreate: {
      controlPlane: ((after.controlPlane - before.controlPlane) * 1000) / count,
      database: ((after.database - before.database) * 1000) / count,
      agents: ((after.agents - before.agents) * 1000) / count,
    },
    perSecond: count / createdSeconds,
    deletesPerSecond: count / ((performance.now() - deleting) / 1000),
  };
}

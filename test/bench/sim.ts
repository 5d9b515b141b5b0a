import { CachedFleet } from "#cp/engine/fleet.ts";
import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import { Database } from "#cp/store/database.ts";
import { silentLogger } from "#kernel/log.ts";
import { Skerry } from "#sdk/index.ts";
import { numberOf } from "./support/arguments.ts";
import type { BenchContext, Benchmark, Measures } from "./support/benchmark.ts";
import { residentMib } from "./support/process-usage.ts";
import { failHosts } from "./support/sim-failures.ts";
import { makePlan } from "./support/sim-plan.ts";
import { policies, replay, replayPolicy, replayRandom, type Replay } from "./support/sim-replay.ts";
import { SimRun } from "./support/sim-run.ts";
import { median, percentile, round } from "./support/statistics.ts";
import { swarmCloud, type SwarmPace } from "./support/swarm.ts";

/** Each host promises what it has and no more. */
const noOvercommit = {
  SKERRY_OVERCOMMIT_CPUS: "1",
  SKERRY_OVERCOMMIT_MEMORY: "1",
  SKERRY_OVERCOMMIT_DISK: "1",
};

/**
 * So many reports and samples a second, 2 to 4 ms of CPU each on all sides together, leave room for what is to be
 * simulated when agents, database and control plane share two cores.
 */
const beatsPerSecond = 200;
const usual = { leaseSeconds: 18, sampleSeconds: 10, keepAliveSeconds: 15 };
/** What is bound to a lease reports in every quarter of it. */
const beatsPerLease = 4;

/** The pace of a real host for as many as this machine can simulate at it; with more of them, slower. */
function paceOf(hosts: number): SwarmPace {
  const beatSeconds = Math.ceil(hosts / beatsPerSecond);
  return {
    leaseSeconds: Math.max(usual.leaseSeconds, beatSeconds * beatsPerLease),
    sampleSeconds: Math.max(usual.sampleSeconds, beatSeconds),
    keepAliveSeconds: Math.max(usual.keepAliveSeconds, beatSeconds),
  };
}

export const benchmark: Benchmark = {
  summary:
    "A whole cloud (--hosts 300 --vms 3000 --seed 1 --near 0): the real control plane and thousands of agents with the fake " +
    "driver; machines come and go, prices change, hosts fail. What it did, and what its placements cost against random and " +
    "cheapest-fit ones of the same requests.",

  async run(bench) {
    const shape = {
      hosts: numberOf(bench.args, "hosts", 300),
      vms: numberOf(bench.args, "vms", 3_000),
      seed: numberOf(bench.args, "seed", 1),
      nearPercent: numberOf(bench.args, "near", 0),
    };
    const plan = makePlan(shape);
    const pace = paceOf(shape.hosts);
    if (pace.leaseSeconds > usual.leaseSeconds) {
      bench.say(
        `So many agents on one machine report every ${String(pace.sampleSeconds)} s: the lease is ` +
          `${String(pace.leaseSeconds)} s instead of ${String(usual.leaseSeconds)}, and recovery takes as much longer.`,
      );
    }
    const world = await swarmCloud(bench, {
      ...{ hosts: plan.hosts, controlPlaneEnv: noOvercommit, pace },
    });
    const client = new Skerry({ url: world.cloud.url, apiKey: world.cloud.apiKey });
    const database = new Database({ url: world.database.url, maxConnections: 2, log: silentLogger });
    bench.teardown(() => database[Symbol.asyncDispose]());

    await using run = await SimRun.open({ client, database, signal: bench.signal });
    await run.publish(plan.sheet);
    const snapshot = await new CachedFleet(database, defaultPolicy(), Date.now).hosts();
    bench.say(`${String(shape.vms)} machines come, a fifth of them go, prices change ...`);
    const { seconds, durations, placements, decided } = await run.play(plan.events);
    const arrived = {
      commits_per_s: round(shape.vms / seconds),
      create_p50_ms: round(median(durations)),
      create_p99_ms: round(percentile(durations, 0.99)),
    };
    bench.say(JSON.stringify(arrived));

    const real = replay(snapshot, decided, (_hosts, name) => placements.get(name));
    const costs = compareCosts(bench, real, {
      skerry: replayPolicy(snapshot, decided, policies.skerry),
      random: replayRandom(snapshot, decided, shape.seed),
      cheapestFit: replayPolicy(snapshot, decided, policies.cheapestFit),
    });

    const { leaseSeconds } = pace;
    const recovery = await failHosts(bench, { plan, database, swarm: world.swarm, leaseSeconds });
    const agentsMib = await sum(world.swarm.pids.map(residentMib));
    const controlPlaneMib = await residentMib(world.cloud.controlPlane.pid);
    return {
      ...shape,
      joined_s: round(world.joinedSeconds),
      ...arrived,
      ...costs,
      lease_s: leaseSeconds,
      ...recovery,
      agents_mib: round(agentsMib),
      control_plane_mib: round(controlPlaneMib),
    };
  },
};

interface Replays {
  readonly skerry: Replay;
  readonly random: Replay;
  readonly cheapestFit: Replay;
}

function compareCosts(bench: BenchContext, real: Replay, { skerry, random, cheapestFit }: Replays): Measures {
  const line = (name: string, { costPerHour, placed }: Replay) =>
    bench.say(`${name}: ${costPerHour.toFixed(2)} USD/h for ${String(placed)} machines`);
  line("as placed", real);
  line("the same policy, one after the other", skerry);
  line("random", random);
  line("cheapest-fit", cheapestFit);
  const busySeconds = skerry.durations.reduce((total, ms) => total + ms, 0) / 1000;
  return {
    placed: real.placed,
    decisions_per_s: Math.round(skerry.durations.length / busySeconds),
    decision_p99_ms: round(percentile(skerry.durations, 0.99)),
    cost_per_hour: round(real.costPerHour),
    cost_vs_random: share(real, random),
    cost_vs_cheapest_fit: share(real, cheapestFit),
    cost_on_paper_vs_cheapest_fit: share(skerry, cheapestFit),
  };
}

async function sum(values: readonly Promise<number>[]): Promise<number> {
  return (await Promise.all(values)).reduce((total, value) => total + value, 0);
}

/** Of one machine: a policy that finds no room for some is not the cheaper for it. */
function share(one: Replay, other: Replay): number {
  const [cost, otherCost] = [one, other].map(({ costPerHour, placed }) => costPerHour / placed);
  return Math.round(((cost ?? 0) / (otherCost ?? 0)) * 10_000) / 10_000;
}

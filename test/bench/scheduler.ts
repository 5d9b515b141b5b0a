import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import { HostClasses } from "#cp/scheduler/host-classes.ts";
import { Placer } from "#cp/scheduler/placer.ts";
import type { HostSnapshot, PlacementRequest } from "#cp/scheduler/snapshot.ts";
import { numberOf } from "./support/arguments.ts";
import type { BenchContext, Benchmark } from "./support/benchmark.ts";
import { randomFleet, randomFrom, randomRequests } from "./support/fleet.ts";
import { measureCommits } from "./support/fleet-commits.ts";
import { percentile } from "./support/statistics.ts";

const instancesPerHost = 10;
const hostsPerSite = 25;
const decisions = 30_000;
const warmUp = 5_000;

export const benchmark: Benchmark = {
  summary:
    "Choosing a host out of N (--hosts 10000) in 400 sites with ten instances on each, alone, with its explanation, " +
    "and committed to PostgreSQL by 16 at a time; every choice takes its room, and a host goes away or comes back after each 1000.",

  async run(bench) {
    const hosts = numberOf(bench.args, "hosts", 10_000);
    const random = randomFrom(1);
    const sites = Math.max(1, Math.round(hosts / hostsPerSite));
    const fleet = randomFleet({ hosts, instances: hosts * instancesPerHost, sites }, random);
    const next = randomRequests(random);
    const alone = measureDecisions(
      bench,
      fleet,
      next,
      (placer, request, seed) => placer.choose(request, seed)[0]?.id,
    );
    const explained = measureDecisions(bench, fleet, next, (placer, request, seed) => {
      const placement = placer.place(request, seed);
      return "unplaceable" in placement ? undefined : placement.host;
    });
    const commits = await measureCommits(bench, fleet, next);
    return {
      ...{ hosts, instances: hosts * instancesPerHost },
      ...{ decisions_per_s: alone.perSecond, p50_ms: alone.p50Ms, p99_ms: alone.p99Ms },
      ...{ explained_per_s: explained.perSecond, explained_p99_ms: explained.p99Ms },
      ...commits,
    };
  },
};

type Decide = (placer: Placer, request: PlacementRequest, seed: string) => string | undefined;

function measureDecisions(
  bench: BenchContext,
  fleet: readonly HostSnapshot[],
  next: () => PlacementRequest,
  decide: Decide,
) {
  const hosts = new HostClasses(fleet);
  const placer = new Placer(hosts, defaultPolicy());
  const durations: number[] = [];
  for (let index = -warmUp; index < decisions; index++) {
    const request = next();
    const started = performance.now();
    const id = decide(placer, request, `op-${index}`);
    const took = performance.now() - started;
    if (index >= 0) durations.push(took);
    const chosen = hosts.get(id ?? "");
    if (chosen) hosts.set(withRequest(chosen, request));
    const other = fleet[Math.abs(index) % fleet.length];
    if (index % 1000 === 0 && other) hosts.set({ ...other, online: index % 2000 === 0 });
  }
  const seconds = durations.reduce((sum, ms) => sum + ms, 0) / 1000;
  const figures = {
    perSecond: Math.round(decisions / seconds),
    p50Ms: round3(percentile(durations, 0.5)),
    p99Ms: round3(percentile(durations, 0.99)),
  };
  bench.say(JSON.stringify(figures));
  return figures;
}

function withRequest(host: HostSnapshot, { cpus, memoryBytes, diskBytes }: PlacementRequest): HostSnapshot {
  const { used } = host;
  return {
    ...host,
    used: {
      cpus: used.cpus + cpus,
      memoryBytes: used.memoryBytes + memoryBytes,
      diskBytes: used.diskBytes + diskBytes,
    },
  };
}

const round3 = (value: number): number => Math.round(value * 1000) / 1000;

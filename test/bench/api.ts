import { requireSameAnswer, startBareServer } from "./support/bare.ts";
import type { Benchmark } from "./support/benchmark.ts";
import { benchCloud, smallest } from "./support/cloud.ts";
import { describeRate, measureRate, type Rate, type Target } from "./support/load.ts";
import { median, round } from "./support/statistics.ts";

const rounds = 7;
const roundSeconds = 3;
const connections = 16;
/** The control plane's default. */
const databaseConnections = 16;

export const benchmark: Benchmark = {
  summary:
    "Requests per second of GET /v1/vms/{id}, with authentication and log, against a bare node:http server " +
    `that sends the same query and gives the same answer: ${connections} keep-alive connections from a third ` +
    `process, ${rounds} rounds by turns, medians.`,

  async run(bench) {
    const { cloud, client } = await benchCloud(bench, {
      agents: 1,
      // A load generator asks more often than any plan allows; that it is counted stays part of the measurement.
      controlPlaneEnv: { SKERRY_RATE_NOVACRON_ENTERPRISE: "1000000000/h,100000000/min" },
    });
    const vm = await client.instances.create({ name: "bench", spec: smallest }, { waitSeconds: 30 });
    const bare = await startBareServer(bench, "bare-http", {
      databaseUrl: cloud.databaseUrl,
      connections: databaseConnections,
    });
    const path = `/v1/vms/${vm.id}`;
    const servers = {
      skerry: { url: cloud.url + path, pid: cloud.controlPlane.pid },
      bare: { url: bare.url + path, pid: bare.pid },
    };
    const authorization = `Token ${cloud.apiKey}`;
    await requireSameAnswer(servers.skerry.url, servers.bare.url, authorization);

    const measure = (server: Target, seconds: number) =>
      measureRate(server, { authorization, connections, seconds });
    bench.say("Warming up ...");
    await measure(servers.skerry, 2 * roundSeconds);
    await measure(servers.bare, 2 * roundSeconds);
    const results: { readonly skerry: Rate; readonly bare: Rate }[] = [];
    for (let index = 0; index < rounds; index++) {
      // Who comes first changes, so that a machine that slows down or speeds up favours neither.
      const first = index % 2 === 0 ? await measure(servers.skerry, roundSeconds) : undefined;
      const bare = await measure(servers.bare, roundSeconds);
      const skerry = first ?? (await measure(servers.skerry, roundSeconds));
      results.push({ skerry, bare });
      bench.say(`round ${index + 1}: skerry ${describeRate(skerry)}; bare ${describeRate(bare)}`);
    }
    const skerry = results.map((result) => result.skerry);
    return {
      ratio: round(median(results.map((result) => result.skerry.perSecond / result.bare.perSecond))),
      skerry_rps: Math.round(median(skerry.map(({ perSecond }) => perSecond))),
      bare_rps: Math.round(median(results.map((result) => result.bare.perSecond))),
      skerry_cpu_us: Math.round(median(skerry.map(({ cpuMicros }) => cpuMicros))),
      bare_cpu_us: Math.round(median(results.map((result) => result.bare.cpuMicros))),
    };
  },
};

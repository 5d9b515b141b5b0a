import { requireSameAnswer, startBareServer } from "./support/bare.ts";
import type { Benchmark } from "./support/benchmark.ts";
import { benchCloud, roomyControlPlane, smallest } from "./support/cloud.ts";
import { timeInFlight } from "./support/in-flight.ts";
import { describeRate, measureRate, type Rate } from "./support/load.ts";
import { median, round } from "./support/statistics.ts";

const instances = 100;
const rounds = 5;
const roundSeconds = 1.5;
const connections = 16;
/** The control plane's default. */
const databaseConnections = 16;

/** By API, its list of a hundred, and where one of them is. */
const paths = {
  skerry: { list: "/skerry/v1/instances?limit=100", one: "/skerry/v1/instances/" },
  atonix: { list: "/v1/compute/instances?limit=100", one: "/v1/compute/instances/" },
  services: { list: "/api/v1/services/instances/?page_size=100", one: "/api/v1/services/instances/" },
  novacron: { list: "/v1/vms?limit=100", one: "/v1/vms/" },
} as const;

// A load generator asks more often than any plan allows; that it is counted stays part of the measurement.
const rates = Object.fromEntries(
  ["ATONIX", "SERVICES", "NOVACRON"].map((api) => [`SKERRY_RATE_${api}_ENTERPRISE`, "1000000000/h"]),
);

interface Case {
  readonly name: string;
  readonly path: string;
  readonly results: { readonly skerry: Rate; readonly bare: Rate }[];
}

export const benchmark: Benchmark = {
  summary:
    `Requests per second of a list of ${instances} instances and of a get, in each API, with authentication, rates ` +
    "and log, against bare Koa and pg that send the same query and give the same answer: " +
    `${connections} keep-alive connections, ${rounds} rounds in random order, medians.`,

  async run(bench) {
    const { cloud, client } = await benchCloud(bench, {
      agents: 1,
      controlPlaneEnv: { ...roomyControlPlane, ...rates },
    });
    bench.say(`Making ${instances} instances ...`);
    const ids: string[] = [];
    await timeInFlight(instances, 8, async (index) => {
      const body = { name: `bench-${index}`, spec: smallest };
      ids.push((await client.instances.create(body, { waitSeconds: 60 })).id);
    });
    const [id = ""] = ids;
    const options = { databaseUrl: cloud.databaseUrl, connections: databaseConnections };
    const bare = await startBareServer(bench, "bare-koa", options);
    const skerry = { url: cloud.url, pid: cloud.controlPlane.pid };
    const authorization = `Token ${cloud.apiKey}`;

    const cases: readonly Case[] = Object.entries(paths).flatMap(([api, { list, one }]) => [
      { name: `${api}_list`, path: list, results: [] },
      { name: `${api}_get`, path: one + id, results: [] },
    ]);
    for (const { path } of cases) await requireSameAnswer(skerry.url + path, bare.url + path, authorization);
    const measure = ({ url, pid }: typeof skerry, path: string) =>
      measureRate({ url: url + path, pid }, { authorization, connections, seconds: roundSeconds });
    const compare = async ({ path }: Case) => {
      const first = Math.random() < 0.5 ? await measure(skerry, path) : undefined;
      const other = await measure(bare, path);
      return { skerry: first ?? (await measure(skerry, path)), bare: other };
    };
    bench.say("Warming up ...");
    for (const each of cases) await compare(each);
    for (let index = 0; index < rounds; index++) {
      for (const each of shuffled(cases)) {
        bench.signal.throwIfAborted();
        const result = await compare(each);
        each.results.push(result);
        bench.say(
          `round ${index + 1}, ${each.name}: skerry ${describeRate(result.skerry)}; bare ${describeRate(result.bare)}`,
        );
      }
    }
    return Object.fromEntries(cases.flatMap(measuresOf));
  },
};

const shuffled = <T>(items: readonly T[]): T[] =>
  items
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);

function measuresOf({ name, results }: Case): readonly (readonly [string, number])[] {
  return [
    [`${name}_ratio`, round(median(results.map(({ skerry, bare }) => skerry.perSecond / bare.perSecond)))],
    [`${name}_rps`, Math.round(median(results.map(({ skerry }) => skerry.perSecond)))],
    [
      `${name}_cpu_ratio`,
      round(median(results.map(({ skerry, bare }) => bare.cpuMicros / skerry.cpuMicros))),
    ],
  ];
}

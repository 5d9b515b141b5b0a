import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Environment } from "#cp/local/child.ts";
import { Program } from "#test/support/program.ts";
import type { BareServerOptions } from "./support/bare-server.ts";
import type { BenchContext, Benchmark } from "./support/benchmark.ts";
import { benchCloud, smallest } from "./support/cloud.ts";
import type { LoadOptions, LoadResult } from "./support/load.ts";
import { cpuSeconds } from "./support/process-usage.ts";
import { helperProgram } from "./support/programs.ts";
import { median, round } from "./support/statistics.ts";

const run = promisify(execFile);
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
    const bare = await startBareServer(bench, {
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

    const measure = async ({ url, pid }: Server, seconds: number): Promise<Rate> => {
      const options: LoadOptions = { url, authorization, connections, seconds };
      const [program, ...args] = helperProgram("load", options);
      const before = await cpuSeconds(pid);
      const { stdout } = await run(program, args, { signal: bench.signal });
      const result = JSON.parse(stdout) as LoadResult;
      const cpuMicros = ((await cpuSeconds(pid)) - before) * 1e6;
      return { perSecond: result.requests / result.seconds, cpuMicros: cpuMicros / result.requests };
    };
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
      bench.say(`round ${index + 1}: skerry ${describe(skerry)}; bare ${describe(bare)}`);
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

interface Server {
  readonly url: string;
  readonly pid: number;
}

interface Rate {
  readonly perSecond: number;
  /** The server's own CPU time for one request: says more than the rate on a machine that has other work. */
  readonly cpuMicros: number;
}

const describe = ({ perSecond, cpuMicros }: Rate) =>
  `${perSecond.toFixed(0)}/s at ${cpuMicros.toFixed(0)} us of CPU`;

async function startBareServer(bench: BenchContext, options: BareServerOptions): Promise<Server> {
  const directory = await mkdtemp(join(tmpdir(), "skb-"));
  bench.teardown(() => rm(directory, { recursive: true }));
  const program = new Program({
    name: "the bare server",
    argv: helperProgram("bare-server", options),
    env: process.env as Environment,
    logFile: join(directory, "bare.log"),
    announcesReady: true,
  });
  bench.teardown(() => program.stop());
  await program.start();
  const { port } = JSON.parse(await readFile(program.logFile, "utf8")) as { port: number };
  return { url: `http://127.0.0.1:${port}`, pid: program.pid };
}

/** The comparison is only fair while both give the same. */
async function requireSameAnswer(a: string, b: string, authorization: string): Promise<void> {
  const read = async (url: string) => (await fetch(url, { headers: { authorization } })).text();
  const [first, second] = [await read(a), await read(b)];
  if (first !== second) throw new Error(`the servers answer differently:\n${first}\n${second}`);
}

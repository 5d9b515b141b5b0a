import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import type { Environment } from "#cp/local/child.ts";
import { Program } from "#test/support/program.ts";
import type { BareServerOptions } from "./support/bare-server.ts";
import type { BenchContext, Benchmark } from "./support/benchmark.ts";
import { benchCloud, smallest } from "./support/cloud.ts";
import type { LoadOptions, LoadResult } from "./support/load.ts";
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
    const { cloud, client } = await benchCloud(bench, { agents: 1 });
    const vm = await client.instances.create({ name: "bench", spec: smallest }, { waitSeconds: 30 });
    const bareUrl = await startBareServer(bench, {
      databaseUrl: cloud.databaseUrl,
      connections: databaseConnections,
      project: vm.project,
    });
    const authorization = `Token ${cloud.apiKey}`;
    const servers = {
      skerry: `${cloud.url}/v1/vms/${vm.id}`,
      bare: `${bareUrl}/v1/vms/${vm.id}`,
    };
    await requireSameAnswer(servers, authorization);

    const measure = async (url: string, seconds: number) => {
      const options: LoadOptions = { url, authorization, connections, seconds };
      const [program, ...args] = helperProgram("load", options);
      const { stdout } = await run(program, args, { signal: bench.signal });
      const result = JSON.parse(stdout) as LoadResult;
      return result.requests / result.seconds;
    };
    bench.say("Warming up ...");
    for (const url of Object.values(servers)) await measure(url, 2 * roundSeconds);
    const results: { readonly skerry: number; readonly bare: number }[] = [];
    for (let index = 0; index < rounds; index++) {
      // Who comes first changes, so that a machine that slows down or speeds up favours neither.
      const first = index % 2 === 0 ? await measure(servers.skerry, roundSeconds) : undefined;
      const bare = await measure(servers.bare, roundSeconds);
      const skerry = first ?? (await measure(servers.skerry, roundSeconds));
      results.push({ skerry, bare });
      bench.say(
        `round ${index + 1}: skerry ${skerry.toFixed(0)}/s, bare ${bare.toFixed(0)}/s, ratio ${(skerry / bare).toFixed(2)}`,
      );
    }
    return {
      ratio: round(median(results.map(({ skerry, bare }) => skerry / bare))),
      skerry_rps: Math.round(median(results.map(({ skerry }) => skerry))),
      bare_rps: Math.round(median(results.map(({ bare }) => bare))),
    };
  },
};

async function startBareServer(bench: BenchContext, options: BareServerOptions): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), "skb-"));
  bench.teardown(() => rm(directory, { recursive: true }));
  const program = new Program({
    name: "the bare server",
    argv: helperProgram("bare-server", options),
    env: process.env as Environment,
    logFile: path.join(directory, "bare.log"),
    announcesReady: true,
  });
  bench.teardown(() => program.stop());
  await program.start();
  const { port } = JSON.parse(await readFile(program.logFile, "utf8")) as { port: number };
  return `http://127.0.0.1:${port}`;
}

/** The comparison is only fair while both give the same. */
async function requireSameAnswer(
  { skerry, bare }: { readonly skerry: string; readonly bare: string },
  authorization: string,
): Promise<void> {
  const read = async (url: string) => (await fetch(url, { headers: { authorization } })).text();
  const [a, b] = [await read(skerry), await read(bare)];
  if (a !== b) throw new Error(`the servers answer differently:\n${a}\n${b}`);
}

/**
 * `npm run bench -- <name>`: says what it does, runs it, and prints one JSON object as its last line. What
 * is measured is the build, as in production: without the condition `development`, every import of the
 * product leads to `dist/`.
 */
import { readdir } from "node:fs/promises";
import type { Benchmark } from "./support/benchmark.ts";

const say = (line: string) => {
  process.stdout.write(`${line}\n`);
};

async function listNames(): Promise<string[]> {
  const entries = await readdir(import.meta.dirname, { withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && entry.name.endsWith(".ts") && entry.name !== "main.ts")
    .map((entry) => entry.name.slice(0, -".ts".length));
}

async function loadBenchmark(name: string): Promise<Benchmark> {
  return ((await import(`./${name}.ts`)) as { readonly benchmark: Benchmark }).benchmark;
}

/** The set-up's own step, so that a benchmark never measures yesterday's sources. */
async function buildProduct(): Promise<void> {
  const step = new URL("../../control-plane/local/setup/build.mjs", import.meta.url).href;
  const { buildSources } = (await import(step)) as { readonly buildSources: () => Promise<void> };
  await buildSources();
}

async function main([name, ...args]: readonly string[]): Promise<number> {
  const names = await listNames();
  if (name !== undefined && !names.includes(name)) {
    say(`there is no benchmark ${name}; npm run bench lists them`);
    return 2;
  }
  await buildProduct();
  if (name === undefined) {
    say("npm run bench -- <name>, where name is one of:");
    for (const each of names) say(`\n${each}\n  ${(await loadBenchmark(each)).summary}`);
    return 0;
  }
  const benchmark = await loadBenchmark(name);
  say(benchmark.summary);
  const stopping = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stopping.abort());
  const teardowns: (() => Promise<void> | void)[] = [];
  let measures;
  try {
    const teardown = (work: () => Promise<void> | void) => void teardowns.push(work);
    measures = await benchmark.run({ args, say, signal: stopping.signal, teardown });
  } finally {
    for (const work of teardowns.reverse()) await work();
  }
  say(JSON.stringify({ benchmark: name, node: process.version, ...measures }));
  return 0;
}

process.exitCode = await main(process.argv.slice(2));

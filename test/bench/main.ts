/** `npm run bench -- <name>`: says what it does, runs it, and prints one JSON object as its last line. */
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

async function main([name, ...args]: readonly string[]): Promise<number> {
  const names = await listNames();
  if (name === undefined || !names.includes(name)) {
    say(`usage: npm run bench -- <name>; names are ${names.join(", ")}`);
    return 2;
  }
  const { benchmark } = (await import(`./${name}.ts`)) as { readonly benchmark: Benchmark };
  say(benchmark.summary);
  const stopping = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stopping.abort());
  const teardowns: (() => Promise<void> | void)[] = [];
  try {
    const teardown = (work: () => Promise<void> | void) => void teardowns.push(work);
    const measures = await benchmark.run({ args, say, signal: stopping.signal, teardown });
    say(JSON.stringify({ benchmark: name, node: process.version, ...measures }));
    return 0;
  } finally {
    for (const work of teardowns.reverse()) await work();
  }
}

process.exitCode = await main(process.argv.slice(2));

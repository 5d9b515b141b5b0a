/** Servers without anything that Skerry does, for it to be compared with. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Environment } from "#cp/local/child.ts";
import { Program } from "#test/support/program.ts";
import type { BenchContext } from "./benchmark.ts";
import type { Target } from "./load.ts";
import { helperProgram } from "./programs.ts";

export interface BareServerOptions {
  readonly databaseUrl: string;
  readonly connections: number;
}

/** Starts `name`.ts of this folder, which goes when the benchmark has ended. */
export async function startBareServer(
  bench: BenchContext,
  name: "bare-http" | "bare-koa",
  options: BareServerOptions,
): Promise<Target> {
  const directory = await mkdtemp(join(tmpdir(), "skb-"));
  bench.teardown(() => rm(directory, { recursive: true }));
  const program = new Program({
    name: "the bare server",
    argv: helperProgram(name, options),
    env: process.env as Environment,
    logFile: join(directory, "bare.log"),
    announcesReady: true,
  });
  bench.teardown(() => program.stop());
  await program.start();
  const { port } = JSON.parse(await readFile(program.logFile, "utf8")) as { port: number };
  return { url: `http://127.0.0.1:${port}`, pid: program.pid };
}

/** The comparison is only fair while both give the same, but for what is new in each answer. */
export async function requireSameAnswer(a: string, b: string, authorization: string): Promise<void> {
  const read = async (url: string) => {
    const response = await fetch(url, { headers: { authorization } });
    const { meta: _meta, ...rest } = (await response.json()) as { readonly meta?: object };
    return JSON.stringify(rest);
  };
  const [first, second] = [await read(a), await read(b)];
  if (first === second) return;
  const at = [...first].findIndex((character, index) => character !== second[index]);
  const excerpts = [first, second].map((text) => text.slice(Math.max(0, at - 80), at + 80));
  throw new Error(`the servers answer differently:\n${excerpts.join("\n")}`);
}

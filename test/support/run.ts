/**
 * `npm test`: one database server and one folder for all files, some of which run at a time, then a look for anything
 * left running. The last line is `N passed, N failed`. It runs what the set-up has built, product and tests.
 */
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { inspect } from "node:util";
import { root } from "#cp/local/programs.ts";
import { serverVariable, startTestServer } from "./postgres.ts";
import { killProcessesOf } from "./processes.ts";
import { longestFirst } from "./test-order.ts";
import { runTestFile, type TestProcessOptions } from "./test-process.ts";
import type { Counts } from "./tap-report.ts";

/** More at a time than there are cores of: much of their time tests wait, those with real guests less. */
const phases: readonly { readonly jobs: number; readonly takes: (file: string) => boolean }[] = [
  { jobs: 4, takes: (file) => !hasGuests(file) },
  { jobs: 3, takes: (file) => hasGuests(file) },
];

function hasGuests(file: string): boolean {
  return /^test\/(e2e|faults)\//.test(file);
}

async function main(given: readonly string[]): Promise<number> {
  const stopping = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => stopping.abort());
  const directory = await mkdtemp(path.join(tmpdir(), "skt-")); // short: sockets are made below it
  const counts: Counts[] = [];
  try {
    counts.push(await runAll(await listTests(given), directory, stopping.signal));
  } catch (error) {
    say(`The run itself failed: ${inspect(error)}`);
    counts.push({ passed: 0, failed: 1 });
  }
  counts.push(await reportLeaks(directory));
  await rm(directory, { recursive: true, force: true });
  const passed = counts.reduce((sum, count) => sum + count.passed, 0);
  const failed = counts.reduce((sum, count) => sum + count.failed, 0);
  say(`${String(passed)} passed, ${String(failed)} failed`);
  return failed === 0 ? 0 : 1;
}

async function runAll(files: readonly string[], directory: string, signal: AbortSignal): Promise<Counts> {
  if (files.length === 0) throw new Error("there are no tests of that name");
  await using server = await startTestServer(path.join(directory, "pg"));
  const env = { ...testEnvironment(directory), [serverVariable]: server.url };
  const sum = { passed: 0, failed: 0 };
  for (const { jobs, takes } of phases) {
    const chosen = files.filter(takes);
    if (chosen.length === 0 || signal.aborted) continue;
    const { passed, failed } = await runFiles(longestFirst(chosen), jobs, { env, signal });
    sum.passed += passed;
    sum.failed += failed;
  }
  return sum;
}

/** The files named, folders opened; without names, all. */
async function listTests(given: readonly string[]): Promise<string[]> {
  const names = given.length > 0 ? given : ["test"];
  const lists = await Promise.all(
    names.map(async (name) => {
      const absolute = path.resolve(root, name);
      if (!(await stat(absolute)).isDirectory()) return [path.relative(root, absolute)];
      const entries = await readdir(absolute, { recursive: true });
      return entries
        .filter((entry) => entry.endsWith(".test.ts"))
        .map((entry) => path.relative(root, path.join(absolute, entry)));
    }),
  );
  return [...new Set(lists.flat())].sort();
}

/** What a run of the tests may be told: where the guest is, how many faults, and the seed that repeats a run. */
const told = ["SKERRY_MICRO_DIR", "SKERRY_FAULTS", "SKERRY_ONLY", "SKERRY_SEED", "SKERRY_TEST_SEED"];

/** Nobody's other settings change what a test does; everything temporary is below the run's folder. */
function testEnvironment(directory: string): NodeJS.ProcessEnv {
  const personal = (name: string) => /^(SKERRY_|DATABASE_URL$|PORT$|PG)/.test(name);
  const kept = Object.entries(process.env).filter(([name]) => !personal(name) || told.includes(name));
  return { ...Object.fromEntries(kept), TMPDIR: directory };
}

/** Some at a time, the next as soon as one is done. */
async function runFiles(
  files: readonly string[],
  jobs: number,
  options: TestProcessOptions,
): Promise<Counts> {
  const sum = { passed: 0, failed: 0 };
  const waiting = files.values();
  const runSome = async () => {
    for (const file of waiting) {
      if (options.signal.aborted) return;
      const { passed, failed, ms, lines } = await runTestFile(file, options);
      sum.passed += passed;
      sum.failed += failed;
      say(`${failed === 0 ? "    ok" : "NOT OK"}  ${file}  ${(ms / 1000).toFixed(1)} s`);
      for (const line of lines) say(`    ${line}`);
    }
  };
  await Promise.all(Array.from({ length: jobs }, runSome));
  return sum;
}

/** A process that a test forgot is a failure of its own: it would be a leak in the product as well. */
async function reportLeaks(directory: string): Promise<Counts> {
  const leaked = await killProcessesOf(directory);
  for (const { pid, commandLine } of leaked)
    say(`LEFT RUNNING  ${String(pid)}  ${commandLine.slice(0, 300)}`);
  return { passed: 0, failed: leaked.length };
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

process.exitCode = await main(process.argv.slice(2));

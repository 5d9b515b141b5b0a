/**
 * One test file in a process of its own. tap's own runner would have that process, and each program that it starts,
 * load tap's hooks for coverage and mocks, which nobody asks for here: that took a fifth of the time of all tests.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { root } from "#cp/local/programs.ts";
import { TapReport, type Counts } from "./tap-report.ts";

export interface FileResult extends Counts {
  readonly file: string;
  readonly ms: number;
  /** What whoever runs the tests should see. */
  readonly lines: readonly string[];
}

export interface TestProcessOptions {
  readonly env: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
}

const limitMs = 300_000;
/** A file that is late says itself what it waits for; one that cannot even do that is killed. */
const graceMs = 20_000;

/** @param file a test's path from the checkout; what the set-up has built of it is run */
export async function runTestFile(file: string, { env, signal }: TestProcessOptions): Promise<FileResult> {
  const started = performance.now();
  const child = spawn(
    process.execPath,
    ["--conditions=built-tests", "--enable-source-maps", path.join("dist", file.replace(/\.ts$/, ".js"))],
    { cwd: root, env: { ...env, ...tapEnvironment }, stdio: ["ignore", "pipe", "inherit", "ipc"] },
  );
  using _limit = killWhenLate(child);
  const stop = () => child.kill("SIGTERM");
  signal.addEventListener("abort", stop, { once: true });
  const ended = once(child, "close") as Promise<[number | null, NodeJS.Signals | null]>;
  const report = new TapReport();
  const lines: string[] = [];
  const input = child.stdout as Readable;
  for await (const line of createInterface({ input, crlfDelay: Infinity })) {
    lines.push(...report.take(nameSources(line)));
  }
  const [code, killedBy] = await ended;
  signal.removeEventListener("abort", stop);
  if (killedBy) lines.push(`ended by ${killedBy}`);
  return { file, ms: performance.now() - started, lines, ...report.close(code) };
}

/** How tap, in the process, hears of its task: what is left out or still to be done is a failure. */
const tapEnvironment = {
  TAP: "1",
  TAP_TIMEOUT: String(limitMs / 1000),
  TAP_FAIL_SKIP: "1",
  TAP_FAIL_TODO: "1",
};

/** A file may ask for another limit than the common one; tap passes that on. */
function killWhenLate(child: ChildProcess): Disposable {
  const kill = () => child.kill("SIGKILL");
  let timer = setTimeout(kill, limitMs + graceMs);
  child.on("message", (message: { setTimeout?: number }) => {
    if (message.setTimeout === undefined) return;
    clearTimeout(timer);
    timer = setTimeout(kill, message.setTimeout + graceMs);
  });
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}

/** Names tests as whoever mends them knows them. */
function nameSources(line: string): string {
  return line.replaceAll(/\bdist\/(test\/\S+)\.js\b/g, "$1.ts");
}

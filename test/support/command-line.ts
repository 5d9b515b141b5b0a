/** The `skerry` command, in this process or in one of its own. */
import { spawn } from "node:child_process";
import { PassThrough } from "node:stream";
import { finished } from "node:stream/promises";
import { nodeProgram, root } from "#cp/local/programs.ts";
import { runCommand } from "#sdk/cli/run.ts";
import type { Terminal } from "#sdk/cli/session.ts";
import type { Teardown } from "./postgres.ts";

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface RunOptions {
  /** What it reads from its standard input. */
  readonly input?: string;
  readonly signal?: AbortSignal;
  /** Hears what it says besides its result, as it says it. */
  readonly onNote?: (text: string) => void;
}

/** Runs a command line, and gives what it printed once it has ended. */
export async function runInProcess(
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  { input = "", signal = new AbortController().signal, onNote }: RunOptions = {},
): Promise<Ran> {
  const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()];
  const ran = { out: "", err: "" };
  stdout.on("data", (bytes: Buffer) => (ran.out += bytes.toString()));
  stderr.on("data", (bytes: Buffer) => {
    ran.err += bytes.toString();
    onNote?.(bytes.toString());
  });
  stdin.end(input);
  const streams = { stdin: stdin as unknown as Terminal["stdin"], stdout, stderr };
  const code = await runCommand(args, { ...streams, env, signal });
  await Promise.all([stdout, stderr].map((stream) => finished(stream.end())));
  return { ...ran, code };
}

/** Starts the program, which does not outlive the test; gives what it has printed so far, and all once it has ended. */
export function startCommand(t: Teardown, args: readonly string[], env: NodeJS.ProcessEnv) {
  const [node, ...program] = nodeProgram("sdk/cli/main");
  const path = { PATH: process.env["PATH"] };
  const child = spawn(node, [...program, ...args], { env: { ...path, ...env }, cwd: root });
  t.teardown(() => void child.kill("SIGKILL"));
  const ran = { code: -1, out: "", err: "" };
  child.stdout.on("data", (bytes: Buffer) => (ran.out += bytes.toString()));
  child.stderr.on("data", (bytes: Buffer) => (ran.err += bytes.toString()));
  const ended = new Promise<Ran>((resolve) =>
    child.once("close", (code) => resolve({ ...ran, code: code ?? -1 })),
  );
  return { child, ran, ended };
}

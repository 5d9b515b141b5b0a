/** The `skerry` command without a process of its own. */
import { PassThrough } from "node:stream";
import { finished } from "node:stream/promises";
import { runCommand } from "#sdk/cli/run.ts";
import type { Terminal } from "#sdk/cli/session.ts";

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

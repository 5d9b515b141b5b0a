/** The command line's one way to run a program: an argument list, a time limit, bounded output. */
import { execFile } from "node:child_process";
import { Fault } from "#kernel/fault.ts";

export interface ExecOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

/** Runs a program and gives its standard output; throws PROGRAM_MISSING, PROGRAM_TIMEOUT or PROGRAM_FAILED. */
export function exec(
  program: string,
  args: readonly string[],
  { timeoutMs, signal }: ExecOptions,
): Promise<string> {
  const options = { timeout: timeoutMs, maxBuffer: 1024 ** 2, encoding: "utf8", signal } as const;
  return new Promise((resolve, reject) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      if (!error) return resolve(stdout);
      if (error.code === "ENOENT") {
        return reject(new Fault("unavailable", `${program} is not installed`, { reason: "PROGRAM_MISSING" }));
      }
      const reason = error.killed ? "PROGRAM_TIMEOUT" : "PROGRAM_FAILED";
      const why = error.killed ? `took longer than ${timeoutMs} ms` : stderr.trim().split("\n").at(-1);
      reject(new Fault("unavailable", `${program}: ${why || error.message}`, { reason, cause: error }));
    });
  });
}

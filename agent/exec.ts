/**
 * The only place that starts programs. Argument vectors, never shell strings; every run ends by itself, by its
 * timeout or by its signal, and keeps a bounded amount of output. What a program wrote to standard error is for
 * operators: it is in the fault's cause ({@link stderrOf}), never in its message.
 */
import { spawn } from "node:child_process";
import { basename } from "node:path";
import { createInterface } from "node:readline";
import { Fault, toFault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";

export interface ExecOptions {
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
  readonly cwd?: string;
  /** Added to the environment; messages are always in English. */
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string | Uint8Array;
  /** Most bytes of standard output; more is a fault. Default 1 MiB. */
  readonly maxOutputBytes?: number;
  /** Ends the program as soon as its standard output satisfies this, and counts it as success. */
  readonly until?: (stdout: string) => boolean;
}

export interface ExecResult {
  readonly stdout: string;
  /** The last 16 KiB. */
  readonly stderr: string;
}

const stderrTailBytes = 16 * 1024;

class ProgramError extends Error {
  readonly stderr: string;
  constructor(command: string, stderr: string) {
    super(`${command}: ${stderr.trim()}`);
    this.name = "ProgramError";
    this.stderr = stderr;
  }
}

/** What the program of a PROGRAM_FAILED fault wrote to standard error; empty for other faults. */
export function stderrOf(thrown: unknown): string {
  return thrown instanceof Fault && thrown.cause instanceof ProgramError ? thrown.cause.stderr : "";
}

/**
 * Runs a program to its end. Throws `unavailable` PROGRAM_MISSING or TIMEOUT, `internal` PROGRAM_FAILED or
 * OUTPUT_TOO_LARGE, or the fault that the signal was aborted with.
 */
export async function exec(
  program: string,
  args: readonly string[],
  options: ExecOptions,
): Promise<ExecResult> {
  const name = basename(program);
  using limit = deadline(options.timeoutMs, name, options.signal);
  limit.throwIfAborted();
  return await new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, LC_ALL: "C.UTF-8", ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    const maxOutputBytes = options.maxOutputBytes ?? 1024 ** 2;
    const stdout: Buffer[] = [];
    let stdoutBytes = 0;
    let stderr = Buffer.alloc(0);
    let satisfied = false;
    let failure: Error | undefined;

    const end = (why?: Error) => {
      failure ??= why;
      child.kill("SIGKILL");
    };
    const aborted = () => end(toFault(limit.reason));
    limit.addEventListener("abort", aborted, { once: true });

    child.stdout.on("data", (chunk: Buffer) => {
      stdoutBytes += chunk.length;
      if (stdoutBytes > maxOutputBytes) {
        end(new Fault("internal", `${name} wrote too much`, { reason: "OUTPUT_TOO_LARGE" }));
        return;
      }
      stdout.push(chunk);
      if (options.until && !satisfied && options.until(Buffer.concat(stdout).toString())) {
        satisfied = true;
        end();
      }
    });
    child.stderr.on("data", (chunk: Buffer) => {
      stderr = Buffer.concat([stderr, chunk]).subarray(-stderrTailBytes);
    });
    // A program may end without reading its input; its exit code tells whether that was a failure.
    child.stdin.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE" && error.code !== "ECONNRESET") end(error);
    });
    child.on("error", (error) => {
      limit.removeEventListener("abort", aborted);
      reject(missingProgram(name, error));
    });
    child.on("close", (exitCode, signal) => {
      limit.removeEventListener("abort", aborted);
      const result = { stdout: Buffer.concat(stdout).toString(), stderr: stderr.toString() };
      if (failure !== undefined) reject(failure);
      else if (exitCode === 0 || satisfied) resolve(result);
      else reject(failedProgram([program, ...args], { exitCode, signal }, stderr));
    });
    child.stdin.end(options.input);
  });
}

/**
 * Runs a program for as long as the signal lets it and gives its standard output line by line. Throws as {@link exec}
 * does; a program that ends by itself with exit code 0 ends the lines.
 */
export async function* execLines(
  program: string,
  args: readonly string[],
  { signal, env, cwd }: Pick<ExecOptions, "signal" | "env" | "cwd">,
): AsyncGenerator<string, void> {
  const name = basename(program);
  signal.throwIfAborted();
  const child = spawn(program, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, LC_ALL: "C.UTF-8", ...env },
    ...(cwd === undefined ? {} : { cwd }),
  });
  let stderr = Buffer.alloc(0);
  child.stderr.on("data", (chunk: Buffer) => {
    stderr = Buffer.concat([stderr, chunk]).subarray(-stderrTailBytes);
  });
  const ended = new Promise<Fault | undefined>((resolve) => {
    child.on("error", (error) => resolve(missingProgram(name, error)));
    child.on("close", (exitCode, by) => {
      resolve(
        exitCode === 0 ? undefined : failedProgram([program, ...args], { exitCode, signal: by }, stderr),
      );
    });
  });
  const kill = () => child.kill("SIGKILL");
  signal.addEventListener("abort", kill, { once: true });
  try {
    yield* createInterface({ input: child.stdout, crlfDelay: Infinity });
    const fault = await ended;
    if (signal.aborted) throw toFault(signal.reason);
    if (fault) throw fault;
  } finally {
    signal.removeEventListener("abort", kill);
    kill();
  }
}

function failedProgram(
  argv: readonly string[],
  end: { readonly exitCode: number | null; readonly signal: string | null },
  stderr: Buffer,
): Fault {
  const name = basename(argv[0] ?? "");
  return new Fault("internal", `${name} failed`, {
    reason: "PROGRAM_FAILED",
    detail: { program: name, ...end },
    cause: new ProgramError(argv.join(" "), stderr.toString()),
  });
}

function missingProgram(name: string, error: NodeJS.ErrnoException): Fault {
  const missing = error.code === "ENOENT" || error.code === "EACCES";
  return missing
    ? new Fault("unavailable", `the program ${name} is not installed on the host`, {
        reason: "PROGRAM_MISSING",
        detail: { program: name },
        retryable: false,
        cause: error,
      })
    : new Fault("internal", `${name} could not be started`, { reason: "PROGRAM_FAILED", cause: error });
}

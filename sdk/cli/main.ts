#!/usr/bin/env node
/** The `skerry` program. */
import { CommanderError } from "commander";
import { Fault } from "#kernel/fault.ts";
import { describeFault, exitCodeOf } from "./errors.ts";
import { createProgram } from "./program.ts";
import type { Terminal } from "./session.ts";

const interruption = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  // Once: a second Ctrl-C ends the process at once.
  process.once(signal, () =>
    interruption.abort(new Fault("unavailable", "interrupted", { reason: "INTERRUPTED", retryable: false })),
  );
}
// A reader that has seen enough (`skerry vm ls | head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

const terminal: Terminal = {
  env: process.env,
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  signal: interruption.signal,
};

try {
  await createProgram(terminal).parseAsync(process.argv);
} catch (thrown) {
  process.exitCode = exitCodeOf(thrown);
  if (!(thrown instanceof CommanderError)) process.stderr.write(describeFault(thrown));
}

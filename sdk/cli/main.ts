#!/usr/bin/env node
/** The `skerry` program. */
import { Fault } from "#kernel/fault.ts";
import { runCommand } from "./run.ts";

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

const { env, stdin, stdout, stderr } = process;
process.exitCode = await runCommand(process.argv.slice(2), {
  env,
  stdin,
  stdout,
  stderr,
  signal: interruption.signal,
});

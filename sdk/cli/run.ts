import { CommanderError } from "commander";
import { describeFault, exitCodeOf, exitCodes } from "./errors.ts";
import { createProgram } from "./program.ts";
import type { Terminal } from "./session.ts";

/** Runs one command line, without the program's own name, and gives the exit code. */
export async function runCommand(args: readonly string[], terminal: Terminal): Promise<number> {
  try {
    await createProgram(terminal).parseAsync(args, { from: "user" });
    return exitCodes.ok;
  } catch (thrown) {
    // commander has said its own errors already
    if (!(thrown instanceof CommanderError)) terminal.stderr.write(describeFault(thrown));
    return exitCodeOf(thrown);
  }
}

/** Runs the few programs of the host that a build needs. */
import { Fault } from "#kernel/fault.ts";
import { exec, stderrOf } from "../../exec.ts";

/** Runs a program and gives what it printed. */
export type Run = (argv: readonly [string, ...string[]], options: RunOptions) => Promise<string>;
export interface RunOptions {
  readonly signal: AbortSignal;
  readonly cwd?: string;
}

/** Downloads are in it, over lines that may be slow. */
const timeoutMs = 15 * 60_000;

/** The packages that the programs come from, where they are not named alike. */
const packageOf: Readonly<Record<string, string>> = {
  "apt-get": "apt",
  "apt-cache": "apt",
  "dpkg-deb": "dpkg",
  xz: "xz-utils",
};

/** Names the package to install when a program is missing. */
export const runTool: Run = async ([program, ...args], options) => {
  try {
    return (await exec(program, args, { timeoutMs, ...options })).stdout;
  } catch (thrown) {
    if (thrown instanceof Fault && thrown.reason === "PROGRAM_MISSING") {
      throw new Fault("unavailable", `building micro needs the package ${packageOf[program] ?? program}`, {
        reason: "PACKAGE_MISSING",
        detail: { packages: [packageOf[program] ?? program] },
        retryable: false,
        cause: thrown,
      });
    }
    const lines = stderrOf(thrown).trim().split("\n");
    if (lines[0]) {
      throw new Fault("unavailable", `${program} failed: ${lines.at(-1) ?? ""}`, {
        reason: "MICRO_BUILD_FAILED",
        cause: thrown,
      });
    }
    throw thrown;
  }
};

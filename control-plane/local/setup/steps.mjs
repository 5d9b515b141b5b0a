// What the steps of the set-up share: saying what happens and why, and running programs.
import { spawn, spawnSync } from "node:child_process";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../../", import.meta.url));

/** Something that the person at the screen can mend; its message says how. */
export class SetupError extends Error {}

export function say(line) {
  process.stdout.write(`${line}\n`);
}

/** Runs a program in this terminal and waits; throws what `failure` says when it does not succeed. */
export function run([program, ...args], { failure, env = {}, retries = 0 }) {
  for (let attempt = 0; ; attempt++) {
    const { status, error } = spawnSync(program, args, {
      cwd: root,
      stdio: ["ignore", "inherit", "inherit"],
      env: { ...process.env, ...env },
    });
    if (status === 0) return;
    const detail = error ? error.message : `exit code ${status}`;
    if (attempt >= retries) throw new SetupError(`${failure} (${[program, ...args].join(" ")}: ${detail})`);
    say(`  ${program}: ${detail}; trying again (${attempt + 1} of ${retries}) ...`);
  }
}

/** True when the program ends with 0; its output is not shown. */
export function succeeds([program, ...args]) {
  return spawnSync(program, args, { stdio: "ignore", timeout: 10_000 }).status === 0;
}

/**
 * Runs the main program in this terminal until it ends and gives its exit code. Signals are passed on;
 * a session of its own keeps it from hearing Ctrl-C twice, and it ends should this process be killed.
 */
export function runToEnd(argv, env) {
  const child = spawn("setpriv", ["--pdeathsig", "TERM", ...argv], {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, ...env },
    detached: true,
  });
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"];
  for (const signal of signals) process.on(signal, () => child.kill(signal));
  return new Promise((resolve, reject) => {
    child.once("error", (error) => reject(new SetupError(`${argv[0]} did not start: ${error.message}`)));
    child.once("exit", (code, signal) => resolve(code ?? 128 + constants.signals[signal]));
  });
}

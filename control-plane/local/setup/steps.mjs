// What the steps of the set-up share: saying what happens and why, and running programs.
import { spawn, spawnSync } from "node:child_process";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../../", import.meta.url));

/** Something that the person at the screen can mend; its message says how. */
export class SetupError extends Error {}

const signals = ["SIGINT", "SIGTERM", "SIGHUP"];

export function say(line) {
  process.stdout.write(`${line}\n`);
}

/** Runs a step's program in this terminal; throws what `failure` says when it does not succeed. */
export async function run([program, ...args], { failure, retries = 0 }) {
  for (let attempt = 0; ; attempt++) {
    const child = spawn(program, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
    const detail = await endOf(child);
    if (!detail) return;
    if (attempt >= retries) throw new SetupError(`${failure} (${[program, ...args].join(" ")}: ${detail})`);
    say(`  ${program}: ${detail}; trying again (${attempt + 1} of ${retries}) ...`);
  }
}

/** Why a program did not succeed, if so; a signal that ends this process meanwhile ends it as well. */
async function endOf(child) {
  let interrupted;
  const pass = (signal) => {
    interrupted = signal;
    child.kill(signal);
  };
  for (const signal of signals) process.on(signal, pass);
  const detail = await new Promise((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("exit", (code, signal) => resolve(code === 0 ? undefined : (signal ?? `exit code ${code}`)));
  });
  for (const signal of signals) process.off(signal, pass);
  if (interrupted) throw new SetupError("the set-up was interrupted; the next start goes on with it");
  return detail;
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
  for (const signal of signals) process.on(signal, () => child.kill(signal));
  return new Promise((resolve, reject) => {
    child.once("error", (error) => reject(new SetupError(`${argv[0]} did not start: ${error.message}`)));
    child.once("exit", (code, signal) => resolve(code ?? 128 + constants.signals[signal]));
  });
}

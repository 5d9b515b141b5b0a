import { readFile } from "node:fs/promises";
import type { Duplex } from "node:stream";
import type { MachineDriver, MachinePlan } from "#agent/drivers/driver.ts";
import { until } from "./until.ts";

/** A login on a guest's serial console, as root of `micro`. */
export class GuestShell {
  readonly #port: Duplex;
  #output = "";
  #count = 0;

  private constructor(port: Duplex) {
    this.#port = port;
    port.on("data", (chunk: Buffer) => (this.#output += chunk.toString()));
  }

  static async open(driver: MachineDriver, plan: MachinePlan, signal: AbortSignal): Promise<GuestShell> {
    const logPath = driver.console!.logPath(plan.directory);
    await until(async () => /login: $/.test(await readFile(logPath, "utf8")));
    const shell = new GuestShell(await driver.console!.connect(plan.id, signal));
    shell.type("root\n");
    await until(() => shell.#output.includes("/root # "));
    return shell;
  }

  /** A login that is there already, where the guest has moved to; ends what it was doing. */
  static async resume(driver: MachineDriver, plan: MachinePlan, signal: AbortSignal): Promise<GuestShell> {
    const shell = new GuestShell(await driver.console!.connect(plan.id, signal));
    // Its shell misses one in a hundred interrupts, those that come while it is between two commands.
    let nextAt = 0;
    const prompts = () => {
      if (performance.now() >= nextAt) {
        shell.type("\x03\n");
        nextAt = performance.now() + 1000;
      }
      return shell.#output.includes("/root # ");
    };
    await until(prompts);
    return shell;
  }

  type(text: string): void {
    this.#port.write(text);
  }

  /** Runs a command and gives what it printed. */
  async run(command: string): Promise<string> {
    const mark = `mark-${String(++this.#count)}`;
    // The echo of the line has the mark in two parts, so only the output has it whole.
    this.type(`echo ${mark.replace("-", "''-")}begin; ${command}; echo ${mark.replace("-", "''-")}end\n`);
    const found = () => new RegExp(`${mark}begin\\r?\\n([^]*?)${mark}end`).exec(this.#output);
    await until(() => found() !== null);
    return (found()?.[1] ?? "").replaceAll("\r", "").trim();
  }
}

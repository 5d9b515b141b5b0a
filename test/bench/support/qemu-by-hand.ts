/** QEMU as a person would start it, without any of the product around it. */
import { execFile } from "node:child_process";
import { copyFile, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { machineFiles } from "#agent/drivers/hypervisor/files.ts";
import { until } from "#test/support/until.ts";
import { firstSerialByte } from "./serial.ts";

const run = promisify(execFile);
const exitLimitMs = 10_000;

export interface HandStart {
  /** Milliseconds from starting the program to the first byte on the serial port. */
  time(): Promise<number>;
}

/**
 * Copies a running machine's command line and files to a folder of their own; `time` starts that copy, so
 * that both starts do the very same.
 */
export async function copyMachine(
  directory: string,
  teardown: (work: () => Promise<void>) => void,
): Promise<HandStart> {
  const original = machineFiles(directory);
  const copyDirectory = await mkdtemp(path.join(tmpdir(), "skq-"));
  teardown(() => rm(copyDirectory, { recursive: true, force: true }));
  const copy = machineFiles(copyDirectory);
  const [program = "", ...args] = await commandLine(await readPid(original.pidFile));
  const moved = args.map((argument) => argument.replaceAll(directory, copyDirectory));
  await copyFile(original.rootDisk, copy.rootDisk);
  await copyFile(original.seed, copy.seed);
  return {
    async time() {
      const started = performance.now();
      // The command line says `-daemonize`: the program returns, the guest runs on.
      await run(program, moved, { cwd: copyDirectory, timeout: 60_000 });
      try {
        await firstSerialByte(copy.consoleLog);
        return performance.now() - started;
      } finally {
        await kill(await readPid(copy.pidFile));
      }
    },
  };
}

async function readPid(pidFile: string): Promise<number> {
  return Number((await readFile(pidFile, "utf8")).trim());
}

async function commandLine(pid: number): Promise<string[]> {
  return (await readFile(`/proc/${pid}/cmdline`, "utf8")).split("\0").slice(0, -1);
}

async function kill(pid: number): Promise<void> {
  process.kill(pid, "SIGKILL");
  await until(async () => {
    const argv = await commandLine(pid).catch(() => []);
    return argv.length === 0; // gone, or a zombie that has none
  }, exitLimitMs);
}

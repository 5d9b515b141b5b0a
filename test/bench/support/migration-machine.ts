/**
 * Machines started by hand on a benchmark's hosts, each a copy of one that the product made: the same arguments, in
 * a folder of its own.
 */
import { execFile } from "node:child_process";
import { copyFile, mkdir, readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { machineFiles, monitorSocketNames } from "#agent/drivers/hypervisor/files.ts";
import { Fault } from "#kernel/fault.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import { lastTick, readyLine } from "#test/support/guests/console-lines.ts";
import { until } from "#test/support/until.ts";
import { Monitor } from "./migration-monitor.ts";
import type { BenchHost } from "./migration-network.ts";

const run = promisify(execFile);
const exitLimitMs = 20_000;
const tickLimitMs = 30_000;

/** How a guest was started. */
export interface GuestPattern {
  readonly argv: readonly string[];
  /** The folder that `argv` names. */
  readonly directory: string;
  /** Holds the seed. */
  readonly files: string;
  readonly diskBytes: number;
  /** The disk's read-only base, if it has one. */
  readonly backing?: { readonly file: string; readonly format: string };
}

/** Takes down how a machine of an agent was started. It must run. */
export async function copyGuest(machineDirectory: string, files: string): Promise<GuestPattern> {
  const original = machineFiles(machineDirectory);
  await mkdir(files, { recursive: true });
  await copyFile(original.seed, machineFiles(files).seed);
  // `-U`: the machine runs and holds the lock.
  const info = ["info", "-U", "--output=json", original.rootDisk];
  const disk = JSON.parse((await run("qemu-img", info)).stdout) as {
    readonly "virtual-size": number;
    readonly "full-backing-filename"?: string;
    readonly "backing-filename-format"?: string;
  };
  const [file, format] = [disk["full-backing-filename"], disk["backing-filename-format"]];
  return {
    argv: await commandLine(await readPid(original.pidFile)),
    directory: machineDirectory,
    files,
    diskBytes: disk["virtual-size"],
    ...(file !== undefined && format !== undefined ? { backing: { file, format } } : {}),
  };
}

/** Makes the guest's disk as it is before the first start. */
export async function makeBlankDisk(guest: GuestPattern, file: string): Promise<void> {
  const backing = guest.backing ? ["-b", guest.backing.file, "-F", guest.backing.format] : [];
  await run("qemu-img", ["create", "-q", "-f", "qcow2", ...backing, file, String(guest.diskBytes)]);
}

export interface HandMachineOptions {
  readonly guest: GuestPattern;
  readonly host: BenchHost;
  readonly directory: string;
  /** Added to its arguments. */
  readonly extra?: readonly string[];
  readonly signal: AbortSignal;
}

export class HandMachine implements AsyncDisposable {
  readonly monitor: Monitor;
  readonly directory: string;
  readonly #pid: number;

  private constructor(directory: string, monitor: Monitor, pid: number) {
    this.directory = directory;
    this.monitor = monitor;
    this.#pid = pid;
  }

  /** Starts it on a host; its disk must be in `directory`. */
  static async start({
    guest,
    host,
    directory,
    extra = [],
    signal,
  }: HandMachineOptions): Promise<HandMachine> {
    const files = machineFiles(directory);
    await copyFile(machineFiles(guest.files).seed, files.seed);
    const [program = "", ...args] = guest.argv.map((one) => one.replaceAll(guest.directory, directory));
    const [placed, ...placedArgs] = host.on([program, ...args, ...extra]);
    // The command line says `-daemonize`: the program returns, the guest runs on.
    await run(placed, placedArgs, { cwd: directory, timeout: 60_000 });
    const pid = await readPid(files.pidFile);
    try {
      const monitor = await Monitor.open(directory, monitorSocketNames[0], signal);
      return new HandMachine(directory, monitor, pid);
    } catch (error) {
      await kill(pid);
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.monitor[Symbol.dispose]();
    await kill(this.#pid);
  }
}

/** Waits until the guest has done what it does before it is measured. */
export async function untilReady(directory: string, limitMs: number, signal: AbortSignal): Promise<void> {
  const ready = new RegExp(`${readyLine}\\r?$`, "m"); // a prompt may stand before it
  await untilConsole(directory, (text) => ready.test(text), limitMs, signal);
}

/** Waits until the guest counts on: the proof that it lives. */
export async function untilNextTick(directory: string, signal: AbortSignal): Promise<void> {
  const before = lastTick(await readConsole(directory));
  await untilConsole(directory, (text) => lastTick(text) !== before, tickLimitMs, signal);
}

async function untilConsole(
  directory: string,
  holds: (text: string) => boolean,
  limitMs: number,
  signal: AbortSignal,
): Promise<void> {
  using limit = deadline(limitMs, "the guest", signal);
  try {
    // Seldom enough that looking costs the guest nothing.
    while (!holds(await readConsole(directory))) await sleep(100, limit);
  } catch (cause) {
    const tail = (await readConsole(directory)).slice(-600);
    throw new Fault("unavailable", `the guest did not get there; its console ends with:\n${tail}`, { cause });
  }
}

async function readConsole(directory: string): Promise<string> {
  return readFile(machineFiles(directory).consoleLog, "latin1").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
}

async function readPid(pidFile: string): Promise<number> {
  return Number((await readFile(pidFile, "utf8")).trim());
}

async function commandLine(pid: number): Promise<string[]> {
  return (await readFile(`/proc/${String(pid)}/cmdline`, "utf8")).split("\0").slice(0, -1);
}

async function kill(pid: number): Promise<void> {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
  await until(async () => {
    const argv = await commandLine(pid).catch(() => []);
    return argv.length === 0; // gone, or a zombie that has none
  }, exitLimitMs);
}

/**
 * QEMU as a process of the host. It leads a session of its own and outlives the agent, so it is found by its pid file;
 * a pid alone may since belong to anyone, so its command line must carry the machine's uuid and that very pid file.
 */
import { readFile } from "node:fs/promises";
import { exec } from "#agent/exec.ts";
import { Fault } from "#kernel/fault.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import type { MachineFiles } from "../hypervisor/files.ts";
import { hostFault } from "../hypervisor/host-fault.ts";

const launchTimeoutMs = 30_000;
const pollMs = 20;
/** Kernels count CPU time in hundredths of a second towards user space, whatever their own tick. */
const clockTicksPerSecond = 100;

export interface ProcessIdentity {
  readonly files: MachineFiles;
  readonly uuid: string;
}

/**
 * Starts QEMU; it is up, with its sockets open, when this returns. Not to be cancelled: a half-started QEMU
 * is harder to find than a started one.
 */
export async function launchProcess(program: string, args: readonly string[], cwd: string): Promise<void> {
  try {
    await exec(program, args, { cwd, timeoutMs: launchTimeoutMs, signal: new AbortController().signal });
  } catch (error) {
    throw hostFault(error, "QEMU did not start");
  }
}

/** The pid of the machine's QEMU; undefined when it does not run. */
export async function findProcess({ files, uuid }: ProcessIdentity): Promise<number | undefined> {
  const pid = Number((await readOr(files.pidFile)).trim());
  if (!Number.isInteger(pid) || pid <= 1) return undefined;
  // The command line of a zombie is empty, so one that nobody reaps counts as gone.
  const argv = (await readOr(`/proc/${String(pid)}/cmdline`)).split("\0");
  return argv.includes(uuid) && argv.includes(files.pidFile) ? pid : undefined;
}

/** Waits until the machine's QEMU is gone. False when it is still there after `timeoutMs`. */
export async function processGone(
  identity: ProcessIdentity,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<boolean> {
  const until = performance.now() + timeoutMs;
  while ((await findProcess(identity)) !== undefined) {
    if (performance.now() >= until) return false;
    await sleep(pollMs, signal);
  }
  return true;
}

/** Ends QEMU at once, whatever it does, and waits until it is gone. */
export async function killProcess(identity: ProcessIdentity): Promise<void> {
  const pid = await findProcess(identity);
  if (pid === undefined) return;
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
  using limit = deadline(10_000, "killing QEMU");
  if (await processGone(identity, 9_000, limit)) return;
  throw new Fault("unavailable", "the machine's process cannot be ended", { reason: "MACHINE_UNKILLABLE" });
}

export interface ProcessUsage {
  readonly cpuSeconds: number;
  readonly residentBytes: bigint;
}

/** What the process has used; undefined when it is gone. */
export async function processUsage(pid: number): Promise<ProcessUsage | undefined> {
  const stat = await readOr(`/proc/${String(pid)}/stat`);
  const status = await readOr(`/proc/${String(pid)}/status`);
  // The name may hold spaces and brackets; the fields that can be counted come after its last bracket.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const ticks = Number(fields[11]) + Number(fields[12]);
  const resident = /^VmRSS:\s+(\d+) kB/m.exec(status)?.[1];
  if (Number.isNaN(ticks) || resident === undefined) return undefined;
  return { cpuSeconds: ticks / clockTicksPerSecond, residentBytes: BigInt(resident) * 1024n };
}

/** The file's text; empty when it, or the process it tells of, is not there. */
async function readOr(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ESRCH") return "";
    throw error;
  }
}

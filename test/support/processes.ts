/** Finds what a test left running, by the folder that its processes work in. */
import { readdir, readFile } from "node:fs/promises";
import { until } from "./until.ts";

export interface FoundProcess {
  readonly pid: number;
  readonly commandLine: string;
  readonly environment: string;
}

/** Processes, this one and its parents excepted, whose command line or environment names the folder. */
export async function findProcessesOf(directory: string): Promise<FoundProcess[]> {
  const own = await listAncestors(process.pid);
  const pids = (await readdir("/proc")).map(Number).filter((pid) => pid > 0 && !own.has(pid));
  const found = await Promise.all(pids.map((pid) => findOne(pid, directory)));
  return found.filter((process) => process !== undefined);
}

/** Ends them all at once and waits until they are gone. */
export async function killProcessesOf(directory: string): Promise<readonly FoundProcess[]> {
  const found = await findProcessesOf(directory);
  for (const { pid } of found) kill(pid);
  await until(async () => (await findProcessesOf(directory)).length === 0);
  return found;
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

async function findOne(pid: number, directory: string): Promise<FoundProcess | undefined> {
  const [commandLine, environment] = await Promise.all([read(pid, "cmdline"), read(pid, "environ")]);
  // A process that has ended but was not waited for has neither.
  if (!commandLine.includes(directory) && !environment.includes(directory)) return undefined;
  const [line, variables] = [commandLine, environment].map((text) => text.replaceAll("\0", " ").trim());
  return { pid, commandLine: line ?? "", environment: variables ?? "" };
}

async function listAncestors(pid: number): Promise<Set<number>> {
  const ancestors = new Set<number>();
  for (let next = pid; next > 0 && !ancestors.has(next);) {
    ancestors.add(next);
    const stat = await read(next, "stat");
    next = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
  }
  return ancestors;
}

/** Empty when the process has gone meanwhile, or belongs to somebody else. */
async function read(pid: number, file: "cmdline" | "environ" | "stat"): Promise<string> {
  return readFile(`/proc/${String(pid)}/${file}`, "utf8").catch(() => "");
}

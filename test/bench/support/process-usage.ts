import { readdir, readFile } from "node:fs/promises";

/** Linux counts CPU time for user space in hundredths of a second, whatever the kernel's own tick. */
const ticksPerSecond = 100;

/** Memory that a process holds right now. */
export async function residentMib(pid: number): Promise<number> {
  const status = await readFile(`/proc/${String(pid)}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) / 1024;
}

/** CPU time that a process has used since it started. */
export async function cpuSeconds(pid: number): Promise<number> {
  return secondsOf(await statOf(pid));
}

/** The same for a process together with its children that run. */
export async function cpuSecondsOfFamily(parent: number): Promise<number> {
  const pids = (await readdir("/proc")).map(Number).filter((pid) => pid > 0);
  const stats = await Promise.all(pids.map((pid) => statOf(pid).catch(() => []))); // one that has just ended
  const family = stats.filter((fields, index) => pids[index] === parent || Number(fields[1]) === parent);
  return family.reduce((sum, fields) => sum + secondsOf(fields), 0);
}

/** The fields of `stat` that come after the program's name, which may hold anything. */
async function statOf(pid: number): Promise<string[]> {
  const stat = await readFile(`/proc/${String(pid)}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

function secondsOf(fields: readonly string[]): number {
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

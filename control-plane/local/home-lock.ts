/**
 * One launcher per data folder. The lock is a file with the holder's pid and start time, so that neither
 * a crash nor a reused pid keeps the folder locked.
 */
import { link, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { Fault } from "#kernel/fault.ts";

interface Holder {
  readonly pid: number;
  readonly startedTicks: string;
}

/** Throws `conflict` ALREADY_RUNNING when another process that is alive holds the folder. */
export async function lockHome(home: string): Promise<AsyncDisposable> {
  const file = path.join(home, "launcher.lock");
  const own = `${file}.${String(process.pid)}`;
  const me: Holder = { pid: process.pid, startedTicks: (await findStart(process.pid)) ?? "" };
  await writeFile(own, JSON.stringify(me), { mode: 0o600 });
  try {
    // `link` fails when the name exists: of two that start together, one gets it.
    for (let attempt = 0; ; attempt++) {
      try {
        await link(own, file);
        break;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
        const holder = await readHolder(file);
        if (attempt > 3 || (holder && (await isAlive(holder)))) throw alreadyRunning(home, holder);
        await rm(file, { force: true });
      }
    }
  } finally {
    await rm(own, { force: true });
  }
  return { [Symbol.asyncDispose]: () => rm(file, { force: true }) };
}

function alreadyRunning(home: string, holder: Holder | undefined): Fault {
  const who = holder ? ` (process ${String(holder.pid)})` : "";
  return new Fault(
    "conflict",
    `a cloud already runs in ${home}${who}: stop it, or set SKERRY_HOME to another folder`,
    {
      reason: "ALREADY_RUNNING",
    },
  );
}

async function readHolder(file: string): Promise<Holder | undefined> {
  try {
    return JSON.parse(await readFile(file, "utf8")) as Holder;
  } catch {
    return undefined; // removed meanwhile, or torn by a power cut: nobody holds it
  }
}

async function isAlive(holder: Holder): Promise<boolean> {
  return (await findStart(holder.pid)) === holder.startedTicks;
}

/** When a process started, in clock ticks since boot; undefined when there is none. */
async function findStart(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${String(pid)}/stat`, "utf8").catch(() => undefined);
  // The second field is the program's name in brackets and may hold spaces; start time is the 22nd.
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
}

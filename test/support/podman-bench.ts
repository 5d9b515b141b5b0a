/** podman for a test: an engine with folders of its own, which it leaves nothing behind of. */
import { mkdtemp, readFile, readlink, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exec } from "#agent/exec.ts";
import type { ContainerBench } from "#agent/containers/conformance.ts";
import { ContainerDriver } from "#agent/containers/driver.ts";
import { PodmanEngine } from "#agent/containers/podman/engine.ts";
import { filesOf } from "#agent/containers/podman/service.ts";
import { silentLogger } from "#kernel/log.ts";
import { makeBusyboxImage } from "./busybox-image.ts";
import { findProcessesOf } from "./processes.ts";
import { until } from "./until.ts";

export interface PodmanBench extends ContainerBench {
  readonly engine: PodmanEngine;
  readonly stateDirectory: string;
}

export async function makePodmanBench(): Promise<PodmanBench> {
  const directory = await mkdtemp(join(tmpdir(), "skerry-podman-"));
  const stateDirectory = join(directory, "engine");
  let boots = 1;
  let engine: PodmanEngine;
  const start = () => {
    engine = new PodmanEngine({ stateDirectory, bootId: String(boots), log: silentLogger });
    return new ContainerDriver({ engine, log: silentLogger });
  };
  const driver = start();
  const archive = await makeBusyboxImage(directory);
  const signal = AbortSignal.timeout(60_000);
  const image = { type: "container", reference: await engine!.load(archive, signal) } as const;
  return {
    ...{ driver, engine: engine!, image, directory, stateDirectory },
    lasting: ["sleep", "1000"],
    ending: ["sh", "-c", "echo about to end; exit 3"],
    crash: (id) => engine.kill(id, signal),
    async successor() {
      await killPodman(stateDirectory, ({ commandLine }) => commandLine.includes("system service"));
      return start();
    },
    async afterPowerCut() {
      await killPodman(stateDirectory, () => true);
      boots++;
      return start();
    },
    async [Symbol.asyncDispose]() {
      await killPodman(stateDirectory, () => true);
      await forgetPodman(stateDirectory);
      await rm(directory, { recursive: true });
    },
  };
}

/** Takes away what an engine's service has outside its own folder, once it has ended. */
export async function forgetPodman(stateDirectory: string): Promise<void> {
  const mounts = (await readFile("/proc/mounts", "utf8")).split("\n").map((line) => line.split(" ")[1] ?? "");
  const ours = mounts.filter((path) => path.startsWith(`${stateDirectory}/`)).reverse();
  for (const path of ours)
    await exec("umount", [path], { timeoutMs: 10_000, signal: AbortSignal.timeout(60_000) });
  await rm(filesOf(stateDirectory).run, { recursive: true, force: true });
}

type Found = Awaited<ReturnType<typeof findProcessesOf>>[number];

/**
 * Kills podman's processes and, with a container's monitor, what runs in it; waits until they are gone. What holds
 * their network namespaces goes as well: a power cut would not leave it.
 */
export async function killPodman(stateDirectory: string, which: (found: Found) => boolean): Promise<void> {
  const { run } = filesOf(stateDirectory);
  const find = async () => [...(await findProcessesOf(run))].filter(which);
  const namespaces = new Set<string>();
  for (const { pid, commandLine } of await find()) {
    const pidFile = /-p (\S*pidfile)/.exec(commandLine)?.[1];
    const inside = pidFile === undefined ? "" : await readFile(pidFile, "utf8").catch(() => "");
    for (const path of await namespacesOf(pid, inside.trim())) namespaces.add(path);
    for (const one of [pid, Number(inside)]) kill(one);
  }
  await until(async () => (await find()).length === 0);
  const mounts = await readFile("/proc/mounts", "utf8");
  for (const path of namespaces) {
    if (mounts.includes(` ${path} `))
      await exec("umount", [path], { timeoutMs: 10_000, signal: AbortSignal.timeout(60_000) });
    await rm(path, { force: true });
  }
}

/**
 * Where the network namespace of a container's process is mounted, as its monitor sees it: with podman in a mount namespace
 * of its own the mount ends with that, and the file under it stays.
 */
async function namespacesOf(monitor: number, inside: string): Promise<readonly string[]> {
  if (inside === "") return [];
  const namespace = await readlink(`/proc/${inside}/ns/net`).catch(() => ""); // it has ended
  const mounts = await readFile(`/proc/${String(monitor)}/mountinfo`, "utf8").catch(() => ""); // likewise
  return mounts.split("\n").flatMap((line) => {
    const [, , , root = "", path = ""] = line.split(" ");
    return root !== "" && root === namespace && path.startsWith("/run/netns/") ? [path] : [];
  });
}

function kill(pid: number): void {
  try {
    if (pid > 1) process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

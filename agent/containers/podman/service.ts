/**
 * podman's own service, run by the agent for as long as the agent runs. It dies with the agent, however that ends; the
 * containers do not, for each has a monitor of its own. Nothing is shared with a podman that the host's owner uses:
 * storage, run-time state and configuration are in folders of the agent's.
 */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { exec, execLines } from "#agent/exec.ts";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import { PodmanClient } from "./client.ts";

export interface PodmanServiceOptions {
  /** Where images and containers are kept. */
  readonly stateDirectory: string;
  /** Registries that may be used without TLS. */
  readonly insecureRegistries?: readonly string[];
  readonly log: Logger;
  /** Changes with each start of the host. Default: the kernel's. */
  readonly bootId?: string;
}

const startLimitMs = 20_000;
const pollMs = 25;
/** Where podman keeps what it knows of running containers, below its run-time folder, and where crun does. */
const containersFolder = "root/overlay-containers";
const runtimeState = "/run/crun";
const unified = "/sys/fs/cgroup/unified";

/** A host has little to give: a container that wants more says so in its own image. */
const configuration = `[containers]
default_ulimits = ["nofile=4096:4096", "nproc=2048:2048"]
cgroupns = "host"
log_driver = "k8s-file"
pids_limit = 2048

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
`;

export class PodmanService implements AsyncDisposable {
  readonly #options: PodmanServiceOptions;
  readonly #stop = new AbortController();
  #running: Promise<PodmanClient> | undefined;
  #ended: Promise<void> = Promise.resolve();

  constructor(options: PodmanServiceOptions) {
    this.#options = options;
  }

  /** A client of the service, which is started when it does not run. */
  async client(signal: AbortSignal): Promise<PodmanClient> {
    signal.throwIfAborted();
    this.#running ??= this.#start().catch((thrown: unknown) => {
      this.#running = undefined;
      throw thrown;
    });
    return await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Fault("unavailable", "the agent is stopping", { reason: "AGENT_STOPPING" }));
    await this.#ended;
  }

  async #start(): Promise<PodmanClient> {
    const { stateDirectory, log } = this.#options;
    if (process.getuid?.() !== 0) throw needsRoot();
    await exec("podman", ["--version"], { timeoutMs: startLimitMs, signal: this.#stop.signal });
    const files = filesOf(stateDirectory);
    await this.#prepare(files);
    const args = [
      ...["--root", files.storage, "--runroot", join(files.run, "root"), "--tmpdir", join(files.run, "tmp")],
      ...["--storage-driver", "overlay", "system", "service", "--time", "0", `unix://${files.socket}`],
    ];
    const [program, ...rest] = await programFor(files);
    const env = { CONTAINERS_CONF: files.configuration, CONTAINERS_REGISTRIES_CONF: files.registries };
    let failed: unknown;
    const lines = execLines("setpriv", ["--pdeathsig", "KILL", program, ...rest, ...args], {
      signal: this.#stop.signal,
      cwd: files.run, // where monitors leave notes of their own
      env,
    });
    this.#ended = drain(lines).then(
      () => this.#gone(new Fault("unavailable", "podman's service ended", { reason: "PODMAN_ENDED" })),
      (thrown: unknown) => this.#gone((failed = thrown)),
    );
    const client = new PodmanClient(files.socket);
    using limit = deadline(startLimitMs, "starting podman", this.#stop.signal);
    while (!(await answers(client, limit))) {
      if (failed !== undefined) throw notStarted(failed);
      await sleep(pollMs, limit);
    }
    log.info("podman.started", {});
    return client;
  }

  #gone(thrown: unknown): void {
    this.#running = undefined;
    if (!this.#stop.signal.aborted) this.#options.log.warn("podman.ended", { fault: toFault(thrown) });
  }

  async #prepare(files: PodmanFiles): Promise<void> {
    await mkdir(files.storage, { recursive: true, mode: 0o700 });
    await this.#forgetLastBoot(files);
    await mkdir(files.run, { recursive: true, mode: 0o700 });
    await rm(files.socket, { force: true });
    await writeFile(files.configuration, configuration);
    await writeFile(files.registries, registriesOf(this.#options.insecureRegistries ?? []));
    await writeFile(join(files.run, "boot-id"), await this.#bootId());
  }

  /** What ran before the host started again does not run, whatever was written down of it. */
  async #forgetLastBoot({ run }: PodmanFiles): Promise<void> {
    const written = await readFile(join(run, "boot-id"), "utf8").catch(() => undefined);
    if (written === (await this.#bootId())) return;
    const stale = await readdir(join(run, containersFolder)).catch(() => []);
    for (const id of stale) await rm(join(runtimeState, id), { recursive: true, force: true });
    await rm(run, { recursive: true, force: true });
  }

  async #bootId(): Promise<string> {
    return this.#options.bootId ?? (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  }
}

interface PodmanFiles {
  readonly storage: string;
  /** Sockets are in it, whose paths must be short. */
  readonly run: string;
  readonly socket: string;
  readonly configuration: string;
  readonly registries: string;
}

/** Where the service of an agent with this state folder keeps its things. */
export function filesOf(stateDirectory: string): PodmanFiles {
  const name = createHash("sha256").update(stateDirectory).digest("hex").slice(0, 12);
  const run = join("/run/skerry", name);
  return {
    storage: join(stateDirectory, "storage"),
    run,
    socket: join(run, "podman.sock"),
    configuration: join(stateDirectory, "containers.conf"),
    registries: join(stateDirectory, "registries.conf"),
  };
}

function registriesOf(insecure: readonly string[]): string {
  const entries = insecure.map(
    (location) => `\n[[registry]]\nlocation = ${JSON.stringify(location)}\ninsecure = true\n`,
  );
  return `unqualified-search-registries = ["docker.io"]\n${entries.join("")}`;
}

/**
 * crun refuses hosts that have both kinds of control groups: there the newer kind is hidden from it. Containers that run
 * already were started behind such a curtain, and what they consist of is to be seen from there only.
 */
async function programFor({ run }: PodmanFiles): Promise<readonly [string, ...string[]]> {
  if (!(await isHybrid())) return ["podman"];
  const monitor = await findMonitor(join(run, containersFolder));
  if (monitor !== undefined) return ["nsenter", `--mount=/proc/${String(monitor)}/ns/mnt`, "--", "podman"];
  return ["unshare", "--mount", "--", "sh", "-c", 'umount "$0" && exec "$@"', unified, "podman"];
}

async function isHybrid(): Promise<boolean> {
  return await stat(join(unified, "cgroup.procs")).then(
    () => true,
    () => false,
  );
}

/** The pid of the monitor of a container that runs; undefined when none does. */
async function findMonitor(containers: string): Promise<number | undefined> {
  for (const id of await readdir(containers).catch(() => [])) {
    const pid = await readFile(join(containers, id, "userdata", "conmon.pid"), "utf8").catch(() => "");
    if (!/^\d+$/.test(pid.trim())) continue;
    const argv = await readFile(`/proc/${pid.trim()}/cmdline`, "utf8").catch(() => "");
    if (argv.split("\0").includes(id)) return Number(pid);
  }
  return undefined;
}

async function answers(client: PodmanClient, signal: AbortSignal): Promise<boolean> {
  try {
    await client.call("GET", "/_ping", { signal });
    return true;
  } catch (thrown) {
    if (signal.aborted) throw thrown;
    return false;
  }
}

async function drain(lines: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of lines);
}

function needsRoot(): Fault {
  return new Fault("unavailable", "containers need an agent that runs as root", {
    reason: "ROOT_NEEDED",
    retryable: false,
  });
}

function notStarted(thrown: unknown): Fault {
  const fault = toFault(thrown);
  if (fault.reason === "PROGRAM_MISSING") return fault;
  return new Fault("unavailable", "the host's podman does not start", {
    reason: "PODMAN_NOT_STARTED",
    cause: thrown,
  });
}

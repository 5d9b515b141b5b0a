/**
 * A cloud of real processes in which everything that a move stands on can be struck: agents, control plane and
 * PostgreSQL killed or frozen, the way between the agents and the way to the gateway cut, stalled or damaged.
 */
import { randomUUID } from "node:crypto";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FakeKnobs } from "#agent/drivers/fake/knobs.ts";
import { EmbeddedPostgres } from "#cp/local/postgres.ts";
import { silentLogger } from "#kernel/log.ts";
import type { Migration } from "#sdk/kinds/generated.ts";
import { startCloud, type TestAgent, type TestCloud } from "#test/support/cloud.ts";
import { pickPort } from "#test/support/ports.ts";
import type { Teardown } from "#test/support/postgres.ts";
import { killProcessesOf } from "#test/support/processes.ts";
import { StallingProxy } from "#test/support/stalling-proxy.ts";
import { until } from "#test/support/until.ts";
import { HostDisk } from "./host-disk.ts";

/** Another address of loopback: an agent's own port is reached through it, and only so. */
const wayHost = "127.0.0.2";
/** A connection on which nothing came for so long is dead: the lease of a host. */
export const keepAliveMs = 1_000;

type Knobs = Partial<FakeKnobs>;

export interface MigrationCloudOptions {
  readonly driver?: "fake" | "qemu";
  readonly keepAliveMs?: number;
}

/** Killed and started again it is another process. */
interface Server {
  postgres: EmbeddedPostgres;
}

export class MigrationCloud {
  readonly cloud: TestCloud;
  /** Between the agents and the control plane. */
  readonly gateway: StallingProxy;
  /** In front of each agent's own port, by the name of its host. */
  readonly ways: ReadonlyMap<string, StallingProxy>;
  /** Of the hosts with real machines, by name; none where this user may not mount one. */
  readonly disks: ReadonlyMap<string, HostDisk>;
  readonly #directory: string;
  readonly #habits: Knobs;
  readonly #server: Server;

  private constructor(parts: {
    readonly cloud: TestCloud;
    readonly gateway: StallingProxy;
    readonly ways: ReadonlyMap<string, StallingProxy>;
    readonly disks: ReadonlyMap<string, HostDisk>;
    readonly directory: string;
    readonly habits: Knobs;
    readonly server: Server;
  }) {
    this.cloud = parts.cloud;
    this.gateway = parts.gateway;
    this.ways = parts.ways;
    this.disks = parts.disks;
    this.#directory = parts.directory;
    this.#habits = parts.habits;
    this.#server = parts.server;
  }

  /** @param habits knobs that every host has at all times */
  static async start(
    t: Teardown,
    habits: Knobs,
    { driver = "fake", keepAliveMs: leaseMs = keepAliveMs }: MigrationCloudOptions = {},
  ): Promise<MigrationCloud> {
    const directory = await mkdtemp(join(tmpdir(), "skm-"));
    await mkdir(join(directory, "knobs"));
    const ways = new Map<string, StallingProxy>();
    const disks = new Map<string, HostDisk>();
    let gateway: StallingProxy | undefined;
    const server: Server = { postgres: await startPostgres(directory) };
    t.teardown(async () => {
      for (const proxy of [gateway, ...ways.values()]) await proxy?.[Symbol.asyncDispose]();
      await server.postgres.stop();
      await killProcessesOf(directory);
      for (const disk of disks.values()) await disk[Symbol.asyncDispose]();
      await rm(directory, { recursive: true, force: true });
    });
    const ports = new Map<string, number>();
    for (const name of ["site-1", "site-2"]) {
      const port = await pickPort();
      ports.set(name, port);
      ways.set(name, await StallingProxy.start({ port }, { host: wayHost, port }));
      await writeFile(knobsFile(directory, name), JSON.stringify(habits));
      const disk = driver === "qemu" ? await HostDisk.mount(join(directory, name)) : undefined;
      if (disk) disks.set(name, disk);
    }
    const cloud = await startCloud(t, {
      databaseUrl: server.postgres.url,
      driver,
      dataDirectory: ({ name }) => join(directory, name),
      controlPlaneEnv: {
        SKERRY_OVERCOMMIT_CPUS: "100",
        SKERRY_GATEWAY_KEEPALIVE_MS: String(leaseMs),
        SKERRY_SWEEP_MS: "1000",
      },
      agentEnv: { SKERRY_AGENT_KEEP_ALIVE_SECONDS: String(leaseMs / 1000) },
      placeAgent: ({ name }, { argv, env }) => ({
        argv,
        env: {
          ...env,
          SKERRY_AGENT_LISTEN_PORT: String(ports.get(name)),
          SKERRY_AGENT_ADVERTISE: wayHost,
          SKERRY_AGENT_FAKE_KNOBS_FILE: knobsFile(directory, name),
          // The agent's end is the host's crash here, and not its shut-down.
          SKERRY_AGENT_STOP_MACHINES: "false",
        },
      }),
      async gatewayPort(port) {
        gateway = await StallingProxy.start({ port });
        return gateway.port;
      },
    });
    if (!gateway) throw new Error("nobody asked for the gateway's port");
    return new MigrationCloud({ cloud, gateway, ways, disks, directory, habits, server });
  }

  agent(name: string): TestAgent {
    const agent = this.cloud.agents.find(({ host }) => host.name === name);
    if (!agent) throw new Error(`there is no host ${name}`);
    return agent;
  }

  /** Where a host keeps a machine. */
  folderOf(name: string, id: string): string {
    return join(this.agent(name).dataDirectory, "machines", id);
  }

  foldersOf(id: string): Record<string, string> {
    return Object.fromEntries(this.cloud.agents.map(({ host }) => [host.name, this.folderOf(host.name, id)]));
  }

  /** Turns a host's knobs; what is not named is as everywhere. */
  async turn(name: string, knobs: Knobs = {}): Promise<void> {
    await writeFile(knobsFile(this.#directory, name), JSON.stringify({ ...this.#habits, ...knobs }));
  }

  get databaseUrl(): string {
    return this.#server.postgres.url;
  }

  async restartPostgres(): Promise<void> {
    this.#server.postgres = await startPostgres(this.#directory);
  }

  async killPostgres(): Promise<void> {
    this.#server.postgres.child.kill("SIGKILL");
    await this.#server.postgres.child.exited;
  }

  /** The server and every session of it. */
  async freezePostgres(frozen: boolean): Promise<void> {
    const { pid } = this.#server.postgres.child;
    const sessions = await readFile(`/proc/${String(pid)}/task/${String(pid)}/children`, "utf8");
    for (const one of [pid, ...sessions.trim().split(" ").filter(Boolean).map(Number)]) {
      signalIfThere(one, frozen ? "SIGSTOP" : "SIGCONT");
    }
  }

  /** Asks the API until it answers with something else than "later". */
  async ask<Body>(method: string, path: string, body?: object): Promise<{ status: number; body: Body }> {
    let answer: { status: number; body: Body } | undefined;
    const headers: Record<string, string> = method === "POST" ? { "idempotency-key": randomUUID() } : {};
    await until(
      async () => {
        answer = await this.cloud.request<Body>(method, path, body, headers).catch(() => undefined); // cut off: asked again
        return answer !== undefined && answer.status !== 503;
      },
      60_000,
      10,
    );
    if (!answer) throw new Error("unreachable");
    return answer;
  }

  async migration(id: string): Promise<Migration> {
    return (await this.ask<Migration>("GET", `/skerry/v1/migrations/${id}`)).body;
  }

  /** Asks for a move. */
  async migrate(instance: string, how: object = {}): Promise<string> {
    const spec = { instance, max_downtime_ms: 1000, ...how };
    const { status, body } = await this.ask<{ id: string }>("POST", "/skerry/v1/migrations", {
      name: "move",
      spec,
    });
    if (status !== 201) throw new Error(`the move was refused: ${String(status)} ${JSON.stringify(body)}`);
    return body.id;
  }
}

function knobsFile(directory: string, name: string): string {
  return join(directory, "knobs", `${name}.json`);
}

function startPostgres(directory: string): Promise<EmbeddedPostgres> {
  return EmbeddedPostgres.start({
    directory: join(directory, "pg"),
    logFile: join(directory, "postgres.log"),
    log: silentLogger,
    signal: AbortSignal.timeout(120_000),
  });
}

/** Sessions come and go by themselves. */
function signalIfThere(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

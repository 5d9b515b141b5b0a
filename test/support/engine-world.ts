/**
 * An engine on a real database, with real agents' machine managers and fake machines in this process.
 * Replicas can be made to die after any commit; replies of agents can get lost.
 */
import { ResourceService } from "#cp/app/resource-service.ts";
import type { Reply } from "#cp/app/resource-api.ts";
import type { AgentPort } from "#cp/agents/port.ts";
import { Engine } from "#cp/engine/engine.ts";
import { insertResource, toResource, resourceColumns, type ResourceRow } from "#cp/engine/rows.ts";
import type { Resource } from "#cp/resources/definition.ts";
import { host as hostKind, type HostStatus } from "#cp/resources/host/host.resource.ts";
import { hostController } from "#cp/resources/host/host.controller.ts";
import { image as imageKind } from "#cp/resources/image/image.resource.ts";
import { instanceController } from "#cp/resources/instance/instance.controller.ts";
import { instance, type Instance } from "#cp/resources/instance/instance.resource.ts";
import { createRegistry } from "#cp/resources/registry.ts";
import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import { Database } from "#cp/store/database.ts";
import { systemPrincipal, type Ctx } from "#kernel/ctx.ts";
import { Fault, isFault } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import { silentLogger, type Logger } from "#kernel/log.ts";
import { MortalDatabase } from "./mortal-database.ts";
import { until } from "./until.ts";
import { WorldHost } from "./world-host.ts";
import { reportTo } from "./world-reports.ts";

const GiB = 1024 ** 3;
const never = new AbortController().signal;
const dialLimitMs = 30_000;

export interface WorldOptions {
  readonly hosts?: number;
  /** Of each host; memory and disk in proportion. */
  readonly cpus?: number;
  readonly log?: Logger;
}

/** The agent's side of a host: what it has behind its transport. */
export interface WorldAgent extends Pick<WorldHost, "id" | "connected" | "commands"> {
  readonly manager: Pick<WorldHost["manager"], "ensure" | "remove" | "list">;
  readonly changes: Pick<WorldHost["changes"], "subscribe">;
  reply<T>(value: T): T;
  stop(): Promise<void>;
}

export interface ReplicaOptions {
  readonly diesAfterCommits?: number;
  readonly url?: string;
  /** False: it takes requests and leaves the work to others. */
  readonly works?: boolean;
  /** Instead of the real one of instances. */
  readonly controller?: typeof instanceController;
}

export interface Replica {
  readonly engine: Engine;
  readonly resources: ResourceService;
  readonly died: Promise<void>;
  /** One that may die does so right after its next commit. */
  doom(): void;
  stop(): Promise<void>;
}

/** What a host with the fake driver tells of itself. */
export function fakeHostStatus(hostname: string, capacity: HostStatus["capacity"]): HostStatus {
  return {
    ...{ connected: true, hostname, architecture: "x86_64", operating_system: "", kernel: "" },
    ...{ agent_version: "", cpu_model: "", cpu_baseline: "x86-64-v2", capacity },
    ...{ driver: "fake", driver_version: "1", acceleration: "none", acceleration_reason: "" },
    ...{ capabilities: ["migration"], listen_address: "", boot_id: "", machine_types: ["fake-1"] },
    ...{ guest_cpu_model: "", unknown_machines: [] },
  };
}

export class World<Agent extends WorldAgent = WorldHost> {
  readonly database: Database;
  readonly hosts: Agent[] = [];
  /** Of the replicas that do not die: most of what a short life costs the server is its connections. */
  readonly #lasting: Database;
  readonly #url: string;
  readonly #log: Logger;
  readonly #startHost: (id: string) => Agent | Promise<Agent>;
  /** Replicas that work, the newest last: hosts are connected to that one. */
  #working: readonly string[] = [];
  #dialling: Promise<void> = Promise.resolve();
  readonly #beating: NodeJS.Timeout;

  /** A world whose hosts are real machine managers with the fake driver. */
  static start(url: string, options: WorldOptions = {}): Promise<World> {
    return World.startWith(url, (id) => WorldHost.start(id), options);
  }

  static async startWith<Agent extends WorldAgent>(
    url: string,
    startHost: (id: string) => Agent | Promise<Agent>,
    options: WorldOptions = {},
  ): Promise<World<Agent>> {
    const { hosts = 2, cpus = 4, log = silentLogger } = options;
    const world = new World(url, startHost, log);
    await world.#clear();
    await insertResource(world.database, imageKind, {
      id: newId("img"),
      project: "root",
      name: "micro",
      labels: {},
      desired: imageKind.spec.parse({ source: { type: "built-in", files: [] } }),
      observed: {
        files: [{ role: "disk", sha256: "0".repeat(64), size_bytes: 1, url: "", format: "raw" }],
        bytes_done: 1,
        bytes_total: 1,
      },
      refs: {},
    });
    for (let n = 1; n <= hosts; n++) await world.addHost(`site-${String(n)}`, cpus);
    return world;
  }

  private constructor(url: string, startHost: (id: string) => Agent | Promise<Agent>, log: Logger) {
    this.#url = url;
    this.#startHost = startHost;
    this.#log = log;
    this.database = new Database({ url, maxConnections: 4, log: silentLogger });
    this.#lasting = new Database({ url, maxConnections: 6, log: silentLogger });
    // All are heard of, or they would be taken for silent.
    this.#beating = setInterval(() => {
      this.database.query("update host_session set last_seen = now()").catch((error: unknown) => {
        log.debug("world.unheard", { error });
      });
    }, 1_000).unref();
  }

  /** Tests of a file share its database, one after the other. */
  async #clear(): Promise<void> {
    const tables = await this.database.query<{ name: string }>(
      "select tablename as name from pg_tables where schemaname = 'public' and tablename <> 'schema_migration'",
    );
    await this.database.query(`truncate ${tables.map(({ name }) => name).join(", ")} cascade`);
  }

  async addHost(name: string, cpus: number): Promise<Agent> {
    const id = newId("host");
    const capacity = { cpus, memory_bytes: cpus * 2 * GiB, disk_bytes: cpus * 16 * GiB };
    await insertResource(this.database, hostKind, {
      id,
      project: "root",
      name,
      labels: {},
      desired: {
        provider: name,
        region: "here",
        zone: "",
        location: null,
        prices: null,
        overcommit: { cpus: 1, memory: 1, disk: 1 },
        cordoned: false,
      },
      observed: fakeHostStatus(name, capacity),
      refs: {},
    });
    const host = await this.#startHost(id);
    this.hosts.push(host);
    return host;
  }

  host(id: string): Agent {
    const host = this.hosts.find((candidate) => candidate.id === id);
    if (!host?.connected) throw new Fault("unavailable", "not connected", { reason: "HOST_NOT_CONNECTED" });
    return host;
  }

  /** Starts a replica; the default address makes it the successor of the one before. */
  async replica(options: ReplicaOptions = {}): Promise<Replica> {
    const {
      diesAfterCommits,
      url = "http://replica",
      works = true,
      controller = instanceController,
    } = options;
    const mortal =
      diesAfterCommits === undefined ? undefined : new MortalDatabase(this.#url, diesAfterCommits);
    const database = mortal ?? this.#lasting;
    const controllers = [controller, hostController];
    const replicaId = newId("replica");
    const leave = () => this.#dial((working) => working.filter((other) => other !== replicaId));
    const engine = new Engine({
      database,
      registry: createRegistry(controllers),
      controllers,
      agents: this.#port(mortal),
      policy: defaultPolicy(),
      log: this.#log,
      now: Date.now,
      replicaId,
      replicaUrl: url,
      concurrency: 8,
      pollMs: 50,
      sweepMs: 200,
    });
    const resources = new ResourceService({ database, events: engine.events, onChange: () => engine.hint() });
    // The one before may have died with what it had heard. Of one that is to die the commits are counted, and are its own.
    const knownOf = (host: WorldAgent) => (mortal ? [] : host.manager.list());
    const reporting = works ? this.hosts.map((host) => reportTo(engine, host, this.#log, knownOf(host))) : [];
    const replica: Replica = {
      engine,
      resources,
      died: mortal?.died ?? new Promise(() => undefined),
      doom: () => mortal?.doom(),
      async stop() {
        for (const subscription of reporting) subscription[Symbol.dispose]();
        await leave();
        await engine[Symbol.asyncDispose]();
        await mortal?.[Symbol.asyncDispose]();
      },
    };
    void mortal?.died.then(leave).catch((error: unknown) => this.#log.debug("world.unheard", { error }));
    try {
      if (!works) return replica;
      // On record before it begins, so that it does not take its own hosts for those of the one before.
      await this.database.query("insert into replica (id, url) values ($1, $2)", [replicaId, url]);
      await this.#dial((working) => [...working, replicaId]);
      await engine.start();
    } catch (fault) {
      await replica.stop();
      throw fault;
    }
    return replica;
  }

  /** The hosts connect to the newest of the replicas that work. */
  #dial(change: (working: readonly string[]) => readonly string[]): Promise<void> {
    this.#working = change(this.#working);
    // A host goes on dialling while the database is away.
    this.#dialling = this.#dialling.then(() => until(() => this.#connectHosts(), dialLimitMs));
    return this.#dialling;
  }

  /** False: the database is away. */
  async #connectHosts(): Promise<boolean> {
    try {
      await this.database.query(
        `insert into host_session (host_id, replica_id) select id, $1 from resource where kind = 'host' order by id
         on conflict (host_id) do update set replica_id = $1, last_seen = now()`,
        [this.#working.at(-1) ?? null],
      );
      return true;
    } catch (fault) {
      if (isFault(fault, "unavailable")) return false;
      throw fault;
    }
  }

  #port(mortal: MortalDatabase | undefined): AgentPort {
    const alive = async () => void (await mortal?.query("select 1"));
    const notUsed = () => {
      throw new Error("not used here");
    };
    return {
      connected: () => this.hosts.filter((host) => host.connected).map((host) => host.id),
      onChange: () => ({ [Symbol.dispose]: () => undefined }),
      ensureMachine: async (hostId, request, signal) => {
        await alive();
        const host = this.host(hostId);
        host.commands.push(`ensure ${request.id}`);
        return host.reply(await host.manager.ensure(request, signal));
      },
      removeMachine: async (hostId, request, signal) => {
        await alive();
        const host = this.host(hostId);
        const kept = (request.keepDisksSeconds ?? 0) > 0 ? " but its disks" : "";
        host.commands.push(`remove ${request.id}${kept}`);
        return host.reply(await host.manager.remove(request, signal));
      },
      probeHost: notUsed,
      machineMetrics: notUsed,
      hostMetrics: notUsed,
      readConsoleLog: notUsed,
      readWorkloadLog: notUsed,
      captureDisk: notUsed,
      readImageFile: notUsed,
      attachConsole: notUsed,
    };
  }

  async find(id: string): Promise<Instance | undefined> {
    const [row] = await this.database.query<ResourceRow>(
      `select ${resourceColumns} from resource where id = $1`,
      [id],
    );
    return row && (toResource(row) as Instance);
  }

  async untilPhase(id: string, phase: string | undefined, limitMs?: number): Promise<void> {
    let last: Instance | undefined;
    try {
      await until(async () => (last = await this.find(id))?.phase === phase && isQuiet(last), limitMs);
    } catch (error) {
      const problem = JSON.stringify(last?.problem);
      throw new Error(`it is ${String(last?.phase)}, not ${String(phase)}: ${problem}`, { cause: error });
    }
  }

  /** The phase has been reached and nothing is left to do: no lease is held and no work is due. */
  async untilSettled(id: string, phase: string | undefined): Promise<void> {
    await this.untilPhase(id, phase);
    await until(async () => {
      const busy = "select 1 from work where key = $1 and (run_at is not null or lease_until is not null)";
      return (await this.database.query(busy, [id])).length === 0;
    });
  }

  /**
   * What must be true whenever nothing is under way: each instance has one machine on the host that it
   * is on and none elsewhere, promises match, and hosts have nothing that no instance stands for.
   */
  async violations(): Promise<string[]> {
    const found: string[] = [];
    const rows = await this.database.query<ResourceRow>(
      `select ${resourceColumns} from resource where kind = 'instance'`,
    );
    const instances = rows.map((row) => toResource(row) as Instance);
    const reserved = await this.database.query<{ resource_id: string; host_id: string }>(
      "select resource_id, host_id from reservation",
    );
    for (const host of this.hosts) {
      for (const machine of host.manager.list()) {
        const owner = instances.find((candidate) => candidate.id === machine.id);
        if (owner?.hostId !== host.id)
          found.push(`${host.id} has ${machine.id}, which belongs to ${String(owner?.hostId)}`);
      }
    }
    for (const { id, hostId } of instances) {
      const machines = this.hosts.filter((host) => host.manager.list().some((machine) => machine.id === id));
      if (hostId && machines.length !== 1) found.push(`${id} has ${String(machines.length)} machines`);
      const promises = reserved.filter((entry) => entry.resource_id === id);
      if (promises.length !== (hostId ? 1 : 0) || promises.some((entry) => entry.host_id !== hostId)) {
        found.push(`${id} on ${String(hostId)} has promises ${JSON.stringify(promises)}`);
      }
    }
    for (const { resource_id } of reserved) {
      if (!instances.some(({ id }) => id === resource_id)) found.push(`a promise is left of ${resource_id}`);
    }
    const requests = await this.database.query("select id from resource where request_of is not null");
    if (requests.length > 0) found.push(`requests are open: ${JSON.stringify(requests)}`);
    // A target that cannot run what was committed to it ends the move; the instance is taken care of as any other then.
    const open = await this.database.query(
      `select name, status, error, attempt,
         (select array_agg(s.name || ' ' || s.status order by s.position) from operation_step s where s.operation_id = o.id) as steps
       from operation o where status in ('running', 'undoing', 'failed')
         and not exists (select 1 from resource m where m.id = o.input ->> 'migration' and m.phase = 'failed'
           and o.status = 'failed' and m.observed -> 'error' ->> 'reason' = o.error ->> 'reason'
           and m.observed ->> 'committed_at' is not null)`,
    );
    if (open.length > 0) found.push(`operations are open or failed: ${JSON.stringify(open)}`);
    return found;
  }

  /** What is still violated once the engine has had its time. */
  async lastingViolations(limitMs = 30_000): Promise<string[]> {
    await until(async () => (await this.violations()).length === 0, limitMs).catch(() => undefined);
    return this.violations();
  }

  async stop(): Promise<void> {
    clearInterval(this.#beating);
    for (const host of this.hosts) await host.stop();
    await this.#lasting[Symbol.asyncDispose]();
    await this.database[Symbol.asyncDispose]();
  }
}

function isQuiet(resource: Instance | undefined): boolean {
  return (
    !resource || resource.observedGeneration >= resource.generation || (resource.problem?.stuck ?? false)
  );
}

export function testCtx(): Ctx {
  return { log: silentLogger, signal: never, principal: systemPrincipal, requestId: "test", now: Date.now };
}

/** Options of a change whose reply nobody reads. */
export const quietly = { respond: (): Reply => ({ status: 200, headers: {}, body: null }) };

/** Creates an instance and gives its id. */
export async function createInstance(
  resources: ResourceService,
  spec: Readonly<Record<string, unknown>> = {},
  name = "web",
): Promise<string> {
  let id = "";
  const respond = (resource: Resource): Reply => {
    id = resource.id;
    return { status: 201, headers: {}, body: null };
  };
  await resources.create(testCtx(), instance, { name, spec: { image: "micro", ...spec } }, { respond });
  return id;
}

/** A gateway and as many agents as wanted, for real on loopback; what lies behind them is in memory. */
import { createHash } from "node:crypto";
import { EventEmitter } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { ConsoleService } from "#gen/skerry/agent/v1/console_pb.js";
import { MachineSchema, MachineService, MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import { MetricsService } from "#gen/skerry/agent/v1/metrics_pb.js";
import type { ReportRequest } from "#gen/skerry/control/v1/control_pb.js";
import { enrol } from "#agent/control/enrol.ts";
import { Identity } from "#agent/control/identity.ts";
import { ControlSession, type ControlSessionOptions } from "#agent/control/session.ts";
import { callerKey, requireControlPlane } from "#agent/rpc/caller.ts";
import { faultInterceptor } from "#agent/rpc/faults.ts";
import type { AgentServices } from "#agent/rpc/handler.ts";
import { healthRoutes, HealthState } from "#agent/rpc/health.ts";
import { reflectionRoutes } from "#agent/rpc/reflection.ts";
import { Authority, type KeyPairPem, type KeyStore } from "#cp/agents/authority.ts";
import { createAgentPort } from "#cp/agents/connect-client.ts";
import type { AgentPort } from "#cp/agents/port.ts";
import { Connections } from "#cp/agents/connections.ts";
import type { EnrolHost, HostRegistry } from "#cp/agents/control-service.ts";
import { Gateway } from "#cp/agents/gateway.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { formatEnrolmentToken } from "#kernel/pin.ts";

export class MemoryKeys implements KeyStore {
  readonly #pairs = new Map<string, KeyPairPem>();
  async find(name: string): Promise<KeyPairPem | undefined> {
    return this.#pairs.get(name);
  }
  async insertIfAbsent(name: string, pair: KeyPairPem): Promise<KeyPairPem> {
    const stored = this.#pairs.get(name) ?? pair;
    this.#pairs.set(name, stored);
    return stored;
  }
}

export class MemoryRegistry implements HostRegistry {
  readonly tokens = new Map<string, { usedBy?: string; hostId?: string }>();
  readonly removed = new Set<string>();

  async enrol({ token, name, keyPin }: EnrolHost): Promise<{ hostId: string }> {
    const found = this.tokens.get(token);
    if (!found) throw new Fault("denied", "the token is unknown", { reason: "TOKEN_UNKNOWN" });
    if (found.usedBy !== undefined && found.usedBy !== keyPin) {
      throw new Fault("denied", "the token has been used", { reason: "TOKEN_USED" });
    }
    found.usedBy = keyPin;
    found.hostId ??= `host-${name}`;
    return { hostId: found.hostId };
  }

  /** Resolves when the registry may answer; a test holds it back to see what happens meanwhile. */
  ready: Promise<unknown> = Promise.resolve();
  asked = 0;

  async renewable(hostId: string): Promise<boolean> {
    this.asked++;
    await this.ready;
    return !this.removed.has(hostId);
  }
}

/** The agent's services as far as the transport cares: each says who called, or never answers. */
export class ProbeServices implements AgentServices {
  readonly calls: string[] = [];
  readonly health = new HealthState();
  readonly interceptors = [faultInterceptor(silentLogger)];
  readonly routes: AgentServices["routes"];

  constructor() {
    const offered = [MachineService, MetricsService, ConsoleService];
    this.routes = (router) => {
      healthRoutes(offered, this.health)(router);
      reflectionRoutes(offered)(router);
      router.service(MachineService, {
        ensureMachine: ({ id, fence }, context) => {
          requireControlPlane(context);
          this.calls.push(id);
          if (id === "vm-full") {
            throw new Fault("exhausted", "no röom", { reason: "HOST_FULL", detail: { größe: "1 €" } });
          }
          const machine = create(MachineSchema, { id, state: MachineState.RUNNING });
          return { machine: fence ? { ...machine, fence } : machine };
        },
        removeMachine: async ({ id }, { signal }) => {
          this.calls.push(id);
          if (id === "vm-stuck") await new Promise((resolve) => signal.addEventListener("abort", resolve));
          return { removed: true };
        },
        listMachines: (_request, context) => ({
          machines: [{ id: "vm-1", message: context.values.get(callerKey) }],
        }),
      });
      router.service(MetricsService, { getHostMetrics: () => ({ metrics: { cpuUsage: 0.5 } }) });
      router.service(ConsoleService, {
        async *attach(requests) {
          for await (const { message } of requests) {
            if (message.case === "open") yield { output: Buffer.from(message.value.machineId), offset: 1n };
            else if (message.case === "input") yield { output: message.value, offset: 2n };
          }
        },
        readLog: ({ machineId }) => ({ output: Buffer.from(machineId), offset: 0n, endOffset: 4n }),
      });
    };
  }
}

export interface WorldOptions {
  readonly now?: () => number;
  readonly hostLifeMs?: number;
  readonly keepAliveMs?: number;
  /** Another replica of the same cloud. */
  readonly beside?: TransportWorld;
}

export class TransportWorld implements AsyncDisposable {
  readonly keys = new MemoryKeys();
  readonly registry = new MemoryRegistry();
  readonly connections = new Connections();
  readonly agents: AgentPort;
  /** Migrations under way, such as `host-a -> host-b`. */
  readonly moves: Set<string>;
  /** Gateways of other replicas by the hosts that are connected there. */
  readonly elsewhere = new Map<string, string>();
  /** Reports are answered when `ready` resolves; a test may have that wait until it rings. */
  readonly sink: { ready: Promise<unknown>; readonly rung: EventEmitter } = {
    ...{ ready: Promise.resolve(), rung: new EventEmitter() },
  };
  readonly reports: { hostId: string; report: ReportRequest }[] = [];
  readonly authority: Authority;
  readonly directory: string;
  readonly keepAliveMs: number;
  gateway!: Gateway;
  readonly #stops: (() => Promise<void>)[] = [];

  private constructor(authority: Authority, directory: string, options: WorldOptions) {
    this.authority = authority;
    this.agents = createAgentPort({ connections: this.connections, authority });
    this.directory = directory;
    this.moves = options.beside?.moves ?? new Set();
    this.keepAliveMs = options.keepAliveMs ?? 15_000;
  }

  static async start(options: WorldOptions = {}): Promise<TransportWorld> {
    const authority = options.beside?.authority ?? (await openAuthority(options));
    const world = new TransportWorld(authority, await mkdtemp(join(tmpdir(), "transport-")), options);
    await world.startGateway(0);
    return world;
  }

  get address(): string {
    return `127.0.0.1:${this.gateway.port}`;
  }

  async startGateway(port: number): Promise<void> {
    this.gateway = await Gateway.listen({
      authority: this.authority,
      registry: this.registry,
      connections: this.connections,
      reports: {
        report: async (hostId, report) => {
          this.reports.push({ hostId, report });
          await this.sink.ready;
          if (report.sessionId === "refused")
            throw new Fault("conflict", "not this one", { reason: "REFUSED" });
          return { nextReportMs: 5000, wantFull: false, leaseMs: 0 };
        },
      },
      files: {
        async *open(sha256, offset) {
          if (sha256 !== fileSha256) throw new Fault("notFound", "no file", { reason: "FILE_NOT_FOUND" });
          yield fileBytes.subarray(offset);
        },
      },
      moves: {
        between: async (source, target) => this.moves.has(`${source} -> ${target}`),
      },
      replicaId: "replica-1",
      locate: async (hostId) => this.elsewhere.get(hostId),
      log: silentLogger,
      host: "127.0.0.1",
      port,
      names: ["gateway.test", "127.0.0.1"],
      keepAliveMs: this.keepAliveMs,
    });
  }

  /** A token that nobody has used; `pin` of another cloud makes a wrong one. */
  token(id: string, pin = this.authority.pin): string {
    const secret = createHash("sha256").update(id).digest("base64url");
    this.registry.tokens.set(`${id}.${secret}`, {});
    return formatEnrolmentToken({ id, secret, pin });
  }

  identityPath(name: string): string {
    return join(this.directory, name, "identity.pem");
  }

  /** Enrols a host; its id is `host-<name>`. */
  async join(name: string, options: { token?: string; address?: string } = {}): Promise<Identity> {
    const identity = await Identity.open(this.identityPath(name));
    await enrol(
      {
        identity,
        token: options.token ?? this.token(`tok-${name}`),
        gateways: [options.address ?? this.address],
        name,
        labels: { provider: "lab", region: "north" },
        facts: { hostname: name },
        keepAliveMs: this.keepAliveMs,
        log: silentLogger,
      },
      AbortSignal.timeout(60_000),
    );
    return identity;
  }

  /** Runs a host's session until the world ends or the result is called. */
  connect(
    identity: Identity,
    options: Partial<ControlSessionOptions> & { services?: AgentServices } = {},
  ): { session: ControlSession; stop: () => Promise<void> } {
    const session = new ControlSession({
      identity,
      gateways: [this.address],
      services: options.services ?? new ProbeServices(),
      keepAliveMs: this.keepAliveMs,
      log: silentLogger,
      reconnect: { baseMs: 20, capMs: 100 },
      ...options,
    });
    const stopping = new AbortController();
    const running = session.run(stopping.signal);
    const stop = async () => {
      stopping.abort();
      await running;
    };
    this.#stops.push(stop);
    return { session, stop };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const stop of this.#stops) await stop();
    await this.gateway[Symbol.asyncDispose]();
    await rm(this.directory, { recursive: true });
  }
}

export const fileBytes = Buffer.alloc(600_000, "skerry");
export const fileSha256 = createHash("sha256").update(fileBytes).digest("hex");

export function openAuthority(options: WorldOptions & { keys?: KeyStore } = {}): Promise<Authority> {
  return Authority.open({
    keys: options.keys ?? new MemoryKeys(),
    hostLifeMs: options.hostLifeMs ?? 30 * 86_400_000,
    operatorLifeMs: 8 * 3_600_000,
    ...(options.now ? { now: options.now } : {}),
  });
}

/**
 * The agents that are connected to this replica. Each has dialled in and had its socket turned round, so
 * that here it is an HTTP/2 client session on which the agent's services are called. One per host: the
 * newest wins, because the older is either a line that died unnoticed or the agent's life before.
 */
import type { ClientHttp2Session } from "node:http2";
import type { DescService } from "@bufbuild/protobuf";
import { createClient, type Client, type Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { ConsoleService } from "#gen/skerry/agent/v1/console_pb.js";
import { ImageService } from "#gen/skerry/agent/v1/image_pb.js";
import { HostService } from "#gen/skerry/agent/v1/host_pb.js";
import { MachineService } from "#gen/skerry/agent/v1/machine_pb.js";
import { MetricsService } from "#gen/skerry/agent/v1/metrics_pb.js";
import { WorkloadService } from "#gen/skerry/agent/v1/workload_pb.js";
import { Fault } from "#kernel/fault.ts";
import { manageSession } from "#kernel/session-manager.ts";
import { dismiss } from "./dismissal.ts";

/** The URL's host is a word only: the session is connected already. */
export const agentAuthority = "https://agent";

interface Connection {
  readonly session: ClientHttp2Session;
  readonly clients: AgentClients;
}

type ChangeListener = (hostId: string, connected: boolean) => void;

export class Connections {
  readonly #connections = new Map<string, Connection>();
  readonly #listeners = new Set<ChangeListener>();

  connected(): readonly string[] {
    return [...this.#connections.keys()];
  }

  onChange(listener: ChangeListener): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Throws {@link hostNotConnected}. */
  clientsOf(hostId: string): AgentClients {
    const connection = this.#find(hostId);
    if (!connection) throw hostNotConnected(hostId);
    return connection.clients;
  }

  /** The session itself, for what is passed on as it is. */
  findSession(hostId: string): ClientHttp2Session | undefined {
    return this.#find(hostId)?.session;
  }

  #find(hostId: string): Connection | undefined {
    const connection = this.#connections.get(hostId);
    return connection?.session.destroyed === false ? connection : undefined;
  }

  /** Takes over a host's session; a session that the host had before is dismissed. */
  add(hostId: string, session: ClientHttp2Session): void {
    if (session.destroyed) return;
    const replaced = this.#connections.get(hostId);
    const connection = { session, clients: new AgentClients(session) };
    this.#connections.set(hostId, connection);
    session.once("close", () => {
      if (this.#connections.get(hostId) === connection) this.#remove(hostId);
    });
    this.#notify(hostId, true);
    if (replaced) dismiss(replaced.session, replacedFault);
  }

  /** Ends a host's session and tells its agent why. */
  disconnect(hostId: string, why: Fault): void {
    const connection = this.#connections.get(hostId);
    if (!connection) return;
    this.#remove(hostId);
    dismiss(connection.session, why);
  }

  #remove(hostId: string): void {
    this.#connections.delete(hostId);
    this.#notify(hostId, false);
  }

  #notify(hostId: string, connected: boolean): void {
    for (const listener of this.#listeners) listener(hostId, connected);
  }
}

export function hostNotConnected(hostId: string): Fault {
  return new Fault("unavailable", "the host is not connected", {
    reason: "HOST_NOT_CONNECTED",
    detail: { host_id: hostId },
  });
}

const replacedFault = new Fault("conflict", "another connection with this host's identity took its place", {
  reason: "CONNECTION_REPLACED",
});

/** The services of one agent. Made when they are first asked for: of thousands of agents, most are only listened to. */
export class AgentClients {
  readonly #session: ClientHttp2Session;
  readonly #made = new Map<DescService, unknown>();
  #transport: Transport | undefined;

  constructor(session: ClientHttp2Session) {
    this.#session = session;
  }

  get machines(): Client<typeof MachineService> {
    return this.#client(MachineService);
  }

  get host(): Client<typeof HostService> {
    return this.#client(HostService);
  }

  get metrics(): Client<typeof MetricsService> {
    return this.#client(MetricsService);
  }

  get console(): Client<typeof ConsoleService> {
    return this.#client(ConsoleService);
  }

  get images(): Client<typeof ImageService> {
    return this.#client(ImageService);
  }

  get workloads(): Client<typeof WorkloadService> {
    return this.#client(WorkloadService);
  }

  #client<S extends DescService>(service: S): Client<S> {
    this.#transport ??= createTransport(this.#session);
    const client =
      (this.#made.get(service) as Client<S> | undefined) ?? createClient(service, this.#transport);
    this.#made.set(service, client);
    return client;
  }
}

const createTransport = (session: ClientHttp2Session): Transport =>
  createConnectTransport({
    baseUrl: agentAuthority,
    httpVersion: "2",
    acceptCompression: [],
    sessionManager: manageSession(agentAuthority, () => session),
  });

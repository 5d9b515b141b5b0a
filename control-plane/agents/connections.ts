/**
 * The agents that are connected to this replica. Each has dialled in and had its socket turned round, so
 * that here it is an HTTP/2 client session on which the agent's services are called. One per host: the
 * newest wins, because the older is either a line that died unnoticed or the agent's life before.
 */
import type { ClientHttp2Session } from "node:http2";
import { createClient, type Client } from "@connectrpc/connect";
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

export interface AgentClients {
  readonly machines: Client<typeof MachineService>;
  readonly host: Client<typeof HostService>;
  readonly metrics: Client<typeof MetricsService>;
  readonly console: Client<typeof ConsoleService>;
  readonly images: Client<typeof ImageService>;
  readonly workloads: Client<typeof WorkloadService>;
}

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
    const connection = { session, clients: createClients(session) };
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

function createClients(session: ClientHttp2Session): AgentClients {
  const transport = createConnectTransport({
    baseUrl: agentAuthority,
    httpVersion: "2",
    acceptCompression: [],
    sessionManager: manageSession(agentAuthority, () => session),
  });
  return {
    machines: createClient(MachineService, transport),
    host: createClient(HostService, transport),
    metrics: createClient(MetricsService, transport),
    console: createClient(ConsoleService, transport),
    images: createClient(ImageService, transport),
    workloads: createClient(WorkloadService, transport),
  };
}

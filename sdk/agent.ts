/**
 * Clients of an agent's own services (Connect over mutual TLS), for operators on the spot: an agent
 * answers on its port whether or not the control plane is there. The certificate is the one that
 * `skerry host cert` issues. Node only.
 */
import { createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { ConsoleService } from "#gen/skerry/agent/v1/console_pb.js";
import { HostService } from "#gen/skerry/agent/v1/host_pb.js";
import { ImageService } from "#gen/skerry/agent/v1/image_pb.js";
import { MachineService } from "#gen/skerry/agent/v1/machine_pb.js";
import { MetricsService } from "#gen/skerry/agent/v1/metrics_pb.js";

export { ConsoleService, HostService, ImageService, MachineService, MetricsService };

export interface AgentClientOptions {
  /** host:port, as `status.listen_address` of a host tells. */
  readonly address: string;
  /** Id of the host: its certificate carries that name, wherever the host is reached. */
  readonly hostId: string;
  /** PEM of the operator's certificate, its key, and the authorities to trust. */
  readonly certificate: string;
  readonly key: string;
  readonly authorities: string;
  /** Limit of each call. Default 30 s. */
  readonly timeoutMs?: number;
}

export interface AgentClients {
  readonly machines: Client<typeof MachineService>;
  readonly host: Client<typeof HostService>;
  readonly console: Client<typeof ConsoleService>;
  readonly metrics: Client<typeof MetricsService>;
  readonly images: Client<typeof ImageService>;
}

/** Clients of all services of one agent. */
export function createAgentClients(options: AgentClientOptions): AgentClients {
  const { address, hostId, certificate, key, authorities, timeoutMs } = options;
  const transport = createConnectTransport({
    baseUrl: `https://${address}`,
    httpVersion: "2",
    defaultTimeoutMs: timeoutMs ?? 30_000,
    nodeOptions: { cert: certificate, key, ca: authorities, servername: hostId },
  });
  return {
    machines: createClient(MachineService, transport),
    host: createClient(HostService, transport),
    console: createClient(ConsoleService, transport),
    metrics: createClient(MetricsService, transport),
    images: createClient(ImageService, transport),
  };
}

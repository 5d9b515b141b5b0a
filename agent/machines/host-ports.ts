/** Host ports for forwards that leave the choice to the host. Once chosen, a port is kept. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer } from "node:net";
import { Fault } from "#kernel/fault.ts";
import type { MachineSpec, PortForward } from "#gen/skerry/agent/v1/machine_pb.js";

export type HostPorts = Readonly<Record<string, number>>;

const attempts = 20;

/** The chosen port of every forward that asks for one; `taken` says what other machines were promised. */
export async function chooseHostPorts(
  forwards: readonly PortForward[],
  kept: HostPorts,
  taken: (port: number) => boolean,
): Promise<HostPorts> {
  const chosen: Record<string, number> = {};
  for (const forward of forwards) {
    if (forward.hostPort !== 0) continue;
    const used = (port: number) => taken(port) || Object.values(chosen).includes(port);
    chosen[keyOf(forward)] = kept[keyOf(forward)] ?? (await findFreePort(forward, used));
  }
  return chosen;
}

/** The spec with every host port filled in. */
export function withHostPorts(spec: MachineSpec, ports: HostPorts): MachineSpec {
  if (spec.forwards.every(({ hostPort }) => hostPort !== 0)) return spec;
  const forwards = spec.forwards.map((forward) => ({
    ...forward,
    hostPort: forward.hostPort || (ports[keyOf(forward)] ?? 0),
  }));
  return { ...spec, forwards };
}

function keyOf({ protocol, guestPort, hostAddress }: PortForward): string {
  return `${protocol}/${hostAddress}/${String(guestPort)}`;
}

async function findFreePort(forward: PortForward, used: (port: number) => boolean): Promise<number> {
  const address = forward.hostAddress || "127.0.0.1";
  const probe = forward.protocol === "udp" ? freeUdpPort : freeTcpPort;
  for (let attempt = 0; attempt < attempts; attempt++) {
    const port = await probe(address);
    if (!used(port)) return port;
  }
  throw new Fault("exhausted", "the host has no free port to forward", { reason: "HOST_PORTS_EXHAUSTED" });
}

async function freeTcpPort(address: string): Promise<number> {
  const server = createServer();
  server.listen(0, address);
  await once(server, "listening").catch(rejectAddress);
  const bound = server.address();
  server.close();
  await once(server, "close");
  return typeof bound === "object" && bound ? bound.port : 0;
}

async function freeUdpPort(address: string): Promise<number> {
  const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
  socket.bind(0, address);
  await once(socket, "listening").catch(rejectAddress);
  const { port } = socket.address();
  socket.close();
  await once(socket, "close");
  return port;
}

function rejectAddress(cause: unknown): never {
  throw new Fault("invalid", "the host does not have the address to forward from", {
    reason: "HOST_ADDRESS_UNKNOWN",
    cause,
  });
}

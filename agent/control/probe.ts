/**
 * Looks at another host for the control plane, which has not heard of it. What is seen is told as it was seen, because
 * each sighting proves another thing: a connection that is taken or refused proves that the host's system is up, and
 * so that its machines may run, whatever has become of its agent; only silence leaves open that the host is gone.
 */
import net from "node:net";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { type GetLeaseResponse, HostService, HostSighting } from "#gen/skerry/agent/v1/host_pb.js";
import { parseAddress, type Trust } from "./dial.ts";

export interface ProbeTarget {
  readonly hostId: string;
  readonly address: string;
  readonly trust: Trust;
  /** The control plane's leave to ask it about its lease. */
  readonly ticket: string;
}

export interface Probe {
  readonly sighting: HostSighting;
  readonly lease?: GetLeaseResponse;
}

/** Unspecified: this host cannot tell, for a reason of its own. The signal must end in time: it is the limit. */
export async function probeHost(target: ProbeTarget, signal: AbortSignal): Promise<Probe> {
  const sighting = await knock(target.address, signal);
  return sighting === HostSighting.UNANSWERED ? ask(target, signal) : { sighting };
}

/** Whether the host's system takes a connection. */
function knock(address: string, signal: AbortSignal): Promise<HostSighting> {
  const { host, port } = parseAddress(address);
  return new Promise((resolve) => {
    const socket = net.connect({ host, port });
    const end = (sighting: HostSighting) => {
      signal.removeEventListener("abort", late);
      socket.destroy();
      resolve(sighting);
    };
    const late = () => end(HostSighting.SILENT);
    socket.once("connect", () => end(HostSighting.UNANSWERED));
    socket.on("error", ({ code = "" }: NodeJS.ErrnoException) =>
      end(sightings[code] ?? HostSighting.UNSPECIFIED),
    );
    if (signal.aborted) late();
    else signal.addEventListener("abort", late, { once: true });
  });
}

/** Others, such as no route or no such name, say something of this host and nothing of the other. */
const sightings: Readonly<Record<string, HostSighting>> = {
  ECONNREFUSED: HostSighting.REFUSED,
  ECONNRESET: HostSighting.UNANSWERED,
  ETIMEDOUT: HostSighting.SILENT,
  EHOSTUNREACH: HostSighting.SILENT,
  EHOSTDOWN: HostSighting.SILENT,
};

async function ask({ hostId, address, trust, ticket }: ProbeTarget, signal: AbortSignal): Promise<Probe> {
  const baseUrl = `https://${address}`;
  const sessionManager = new Http2SessionManager(baseUrl, undefined, { ...trust, servername: hostId });
  const transport = createConnectTransport({ baseUrl, httpVersion: "2", sessionManager });
  try {
    const lease = await createClient(HostService, transport).getLease({ ticket }, { signal });
    return { sighting: HostSighting.ANSWERED, lease };
  } catch (thrown) {
    return { sighting: isStranger(thrown) ? HostSighting.UNSPECIFIED : HostSighting.UNANSWERED };
  } finally {
    sessionManager.abort();
  }
}

/** Somebody else has the address now, and tells nothing of the host. */
function isStranger(thrown: unknown): boolean {
  const { cause, code } = ConnectError.from(thrown);
  const reason = (cause as NodeJS.ErrnoException | undefined)?.code ?? "";
  return code !== Code.DeadlineExceeded && reason.startsWith("ERR_TLS_CERT");
}

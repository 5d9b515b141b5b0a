import { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import tls, { type PeerCertificate, type SecureContext, type TLSSocket } from "node:tls";
import { Fault } from "#kernel/fault.ts";
import { peerOf } from "#kernel/peer.ts";
import { pinOf } from "#kernel/pin.ts";
import { deadline } from "#kernel/retry.ts";

/** The agent serves HTTP/2 on the socket that it dialled. */
export const agentProtocol = "skerry-agent/1";

const dialTimeoutMs = 10_000;

/** What a gateway must prove, and what this host can. */
export interface Trust {
  readonly ca: string;
  readonly key?: string;
  readonly cert?: string;
  /** All of it, put together beforehand. */
  readonly secureContext?: SecureContext;
}

/**
 * Opens a TLS connection to a gateway (`host:port`) and makes sure that it is one: its certificate comes
 * from our cloud and says so itself, whatever the address. Throws GATEWAY_UNREACHABLE or GATEWAY_UNTRUSTED.
 */
export function dialGateway(
  address: string,
  protocol: string,
  trust: Trust,
  signal: AbortSignal,
): Promise<TLSSocket> {
  const checkServerIdentity = (_host: string, certificate: PeerCertificate): Error | undefined => {
    const peer = peerOf(new X509Certificate(certificate.raw));
    return peer?.role === "gateway" ? undefined : new Error("the certificate is not a gateway's");
  };
  return connect(address, { ...trust, ALPNProtocols: [protocol], checkServerIdentity }, signal);
}

/**
 * Finds the root of a gateway's chain that has the given pin, without trusting anything else about the
 * gateway and without telling it anything. Throws GATEWAY_UNTRUSTED when there is none.
 */
export async function fetchPinnedAuthority(
  address: string,
  pin: string,
  signal: AbortSignal,
): Promise<string> {
  const socket = await connect(address, { rejectUnauthorized: false, ALPNProtocols: ["h2"] }, signal);
  try {
    let certificate = socket.getPeerX509Certificate();
    const seen = new Set<string>();
    while (certificate && !seen.has(certificate.fingerprint256)) {
      if (pinOf(certificate.raw) === pin) return certificate.toString();
      seen.add(certificate.fingerprint256);
      certificate = certificate.issuerCertificate;
    }
  } finally {
    socket.destroy();
  }
  throw new Fault("denied", `${address} is not the cloud that the token is for`, {
    reason: "GATEWAY_UNTRUSTED",
  });
}

async function connect(
  address: string,
  options: tls.ConnectionOptions,
  signal: AbortSignal,
): Promise<TLSSocket> {
  const { host, port } = parseAddress(address);
  using limit = deadline(dialTimeoutMs, `connecting to ${address}`, signal);
  const servername = isIP(host) ? {} : { servername: host };
  const socket = tls.connect({ minVersion: "TLSv1.3", host, port, ...servername, ...options });
  try {
    await new Promise<void>((resolve, reject) => {
      const aborted = () => {
        const reason: unknown = limit.reason;
        reject(reason instanceof Error ? reason : new Error("aborted"));
      };
      if (limit.aborted) aborted();
      limit.addEventListener("abort", aborted, { once: true });
      socket.once("secureConnect", resolve);
      socket.once("error", reject);
      socket.once("close", () => reject(new Error("the connection was closed during the handshake")));
    });
  } catch (thrown) {
    socket.on("error", () => undefined); // one has been reported; the rest are echoes of it
    socket.destroy();
    throw toDialFault(address, thrown, socket);
  }
  socket.setNoDelay(true);
  return socket;
}

function toDialFault(address: string, thrown: unknown, socket: TLSSocket): Fault {
  if (thrown instanceof Fault) return thrown;
  const why = thrown instanceof Error ? thrown.message : "unknown error";
  return socket.authorizationError
    ? new Fault("denied", `${address} is not a gateway of this cloud: ${why}`, {
        reason: "GATEWAY_UNTRUSTED",
        cause: thrown,
      })
    : new Fault("unavailable", `cannot reach the gateway at ${address}: ${why}`, {
        reason: "GATEWAY_UNREACHABLE",
        cause: thrown,
      });
}

/** Reads `host:port`, with an IPv6 address in brackets. */
export function parseAddress(address: string): { host: string; port: number } {
  const [, bracketed, plain, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(address) ?? [];
  const host = bracketed ?? plain;
  if (host === undefined || !(Number(port) >= 1 && Number(port) <= 65_535)) {
    throw new Fault("invalid", `${address} is not an address: write host:port`, {
      reason: "ADDRESS_INVALID",
    });
  }
  return { host, port: Number(port) };
}

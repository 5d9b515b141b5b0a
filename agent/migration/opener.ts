/** How a destination gets a call to the source: straight to it, or through the control plane. */
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import http2, { type ClientHttp2Session } from "node:http2";
import type { PeerCertificate } from "node:tls";
import { Fault } from "#kernel/fault.ts";
import { peerOf, type Peer } from "#kernel/peer.ts";
import { deadline } from "#kernel/retry.ts";
import { cancelled } from "#kernel/stall.ts";
import type { Identity } from "../control/identity.ts";
import { pullPath, sourceHostKey } from "./protocol.ts";
import { PullRequest } from "./pull-request.ts";

export interface StreamOpener {
  /** For the log: `direct` or `relay`. */
  readonly name: string;
  /** Connects and calls. Throws `unavailable` PEER_UNREACHABLE. */
  open(windowBytes: number, signal: AbortSignal): Promise<PullRequest>;
}

type OwnIdentity = Pick<Identity, "credentials">;

const connectTimeoutMs = 5000;
const keepAlive = { everyMs: 10_000, timeoutMs: 30_000 };

/** To the source's own port; its certificate must name the host. */
export function directOpener(options: {
  readonly address: string;
  readonly hostId: string;
  readonly identity: OwnIdentity;
}): StreamOpener {
  const { address, hostId, identity } = options;
  const expected: Peer = { role: "host", name: hostId };
  return { name: "direct", open: (window, signal) => open({ address, expected, identity }, window, signal) };
}

/** Through a gateway of the control plane, which passes the call on to the source's connection with it. */
export function relayOpener(options: {
  readonly address: string;
  readonly hostId: string;
  readonly identity: OwnIdentity;
}): StreamOpener {
  const { address, hostId, identity } = options;
  const expected = { role: "gateway" } as const;
  const target = { address, expected, identity, sourceHostId: hostId };
  return { name: "relay", open: (window, signal) => open(target, window, signal) };
}

interface Target {
  readonly address: string;
  readonly expected: { readonly role: Peer["role"]; readonly name?: string };
  readonly identity: OwnIdentity;
  readonly sourceHostId?: string;
}

/** Each call has a connection of its own: a disk that is slow to write does not hold up the memory. */
async function open(target: Target, windowBytes: number, signal: AbortSignal): Promise<PullRequest> {
  const session = await connect(target, windowBytes, signal);
  session.setLocalWindowSize(windowBytes);
  const stopKeepingAlive = keepAliveOf(session);
  session.once("close", stopKeepingAlive);
  const { sourceHostId } = target;
  const stream = session.request(
    {
      ":method": "POST",
      ":path": pullPath,
      "content-type": "application/grpc+proto",
      te: "trailers",
      ...(sourceHostId !== undefined && { [sourceHostKey]: sourceHostId }),
    },
    { endStream: false },
  );
  return new PullRequest(stream, () => session.destroy());
}

async function connect(
  { address, expected, identity }: Target,
  windowBytes: number,
  signal: AbortSignal,
): Promise<ClientHttp2Session> {
  using limit = deadline(connectTimeoutMs, "connecting to the other host", signal);
  const session = http2.connect(`https://${address}`, {
    ...identity.credentials,
    // The name that is asked for; an address would be none.
    servername: expected.name ?? expected.role,
    checkServerIdentity: (_name: string, certificate: PeerCertificate) => checkPeer(expected, certificate),
    settings: { initialWindowSize: windowBytes, enablePush: false },
    // Node counts what waits to be read against this, in megabytes.
    maxSessionMemory: 16 + Math.ceil(windowBytes / 1e6),
  });
  session.on("error", () => undefined); // told by the wait for it, and later by its streams
  try {
    await once(session, "connect", { signal: limit });
    return session;
  } catch (thrown) {
    session.destroy();
    throw signal.aborted ? cancelled(signal) : unreachable(address, thrown);
  }
}

function checkPeer({ role, name }: Target["expected"], certificate: PeerCertificate): Error | undefined {
  const peer = peerOf(new X509Certificate(certificate.raw));
  const right = peer?.role === role && (name === undefined || peer.name === name);
  return right ? undefined : new Error("the certificate is another's");
}

/** Notices that the other end is gone while neither has anything to say. */
function keepAliveOf(session: ClientHttp2Session): () => void {
  let heardAt = performance.now();
  const timer = setInterval(() => {
    if (performance.now() - heardAt > keepAlive.everyMs + keepAlive.timeoutMs) session.destroy();
    else if (!session.destroyed) session.ping((error) => !error && (heardAt = performance.now()));
  }, keepAlive.everyMs);
  return () => clearInterval(timer);
}

function unreachable(address: string, cause: unknown): Fault {
  return new Fault("unavailable", "the other host cannot be reached", {
    reason: "PEER_UNREACHABLE",
    cause: new Error(address, { cause }),
  });
}

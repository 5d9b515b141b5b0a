/** How a destination gets a call to the source: straight to it, or through the control plane. */
import { X509Certificate } from "node:crypto";
import {
  Client,
  connectivityState,
  credentials,
  Metadata,
  type ClientDuplexStream,
  type ServiceError,
  type VerifyOptions,
} from "@grpc/grpc-js";
import { Fault } from "#kernel/fault.ts";
import { peerOf, type Peer } from "#kernel/peer.ts";
import { fromRpcStatus } from "#kernel/rpc-status.ts";
import { cancelled } from "#kernel/stall.ts";
import type { Identity } from "../control/identity.ts";
import { maxMessageBytes, pullPath, sourceHostKey } from "./protocol.ts";
import { decodeFrame, encodeRequest, type Frame, type Request } from "./wire.ts";

/** One call; disposing ends its connection as well. */
export interface PullStream extends Disposable {
  readonly stream: ClientDuplexStream<Request, Frame>;
}

export interface StreamOpener {
  /** For the log: `direct` or `relay`. */
  readonly name: string;
  /** Connects and calls. Throws `unavailable` PEER_UNREACHABLE. */
  open(windowBytes: number, signal: AbortSignal): Promise<PullStream>;
}

type OwnIdentity = Pick<Identity, "credentials">;

const connectTimeoutMs = 5000;
const keepAlive = { "grpc.keepalive_time_ms": 10_000, "grpc.keepalive_timeout_ms": 30_000 };

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
async function open(target: Target, windowBytes: number, signal: AbortSignal): Promise<PullStream> {
  const { ca, key, cert } = target.identity.credentials;
  const secure = credentials.createSsl(Buffer.from(ca), Buffer.from(key), Buffer.from(cert), verify(target));
  const client = new Client(target.address, secure, {
    "grpc-node.flow_control_window": windowBytes,
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_receive_message_length": maxMessageBytes,
    // The name that is asked for; an address would be none.
    "grpc.ssl_target_name_override": target.expected.name ?? target.expected.role,
    "grpc.enable_retries": 0,
    "grpc.enable_http_proxy": 0,
    ...keepAlive,
  });
  try {
    await connected(client, target, signal);
    const metadata = new Metadata();
    if (target.sourceHostId !== undefined) metadata.set(sourceHostKey, target.sourceHostId);
    const stream = client.makeBidiStreamRequest(pullPath, encodeRequest, decodeFrame, metadata);
    return {
      stream,
      [Symbol.dispose]: () => {
        stream.cancel();
        client.close();
      },
    };
  } catch (thrown) {
    client.close();
    throw thrown;
  }
}

function verify({ expected }: Target): VerifyOptions {
  return {
    checkServerIdentity: (_name, certificate) => {
      const peer = peerOf(new X509Certificate(certificate.raw));
      const right =
        peer?.role === expected.role && (expected.name === undefined || peer.name === expected.name);
      return right ? undefined : new Error("the certificate is another's");
    },
  };
}

/** Fails at the first failure, and does not try again as the library would: there may be another way. */
function connected(client: Client, { address }: Target, signal: AbortSignal): Promise<void> {
  const channel = client.getChannel();
  const until = Date.now() + connectTimeoutMs;
  return new Promise((resolve, reject) => {
    const aborted = () => reject(cancelled(signal));
    const settle = (end: () => void) => {
      signal.removeEventListener("abort", aborted);
      end();
    };
    const look = (late?: Error) => {
      const state = channel.getConnectivityState(true);
      if (state === connectivityState.READY) settle(resolve);
      else if (late || state === connectivityState.TRANSIENT_FAILURE || signal.aborted) {
        settle(() => reject(signal.aborted ? cancelled(signal) : unreachable(address, late)));
      } else channel.watchConnectivityState(state, until, look);
    };
    signal.addEventListener("abort", aborted, { once: true });
    look();
  });
}

function unreachable(address: string, cause: Error | undefined): Fault {
  return new Fault("unavailable", "the other host cannot be reached", {
    reason: "PEER_UNREACHABLE",
    cause: new Error(address, { cause }),
  });
}

/** What the source said when it ended the call, or that the call was cut. */
export function callFault(error: ServiceError): Fault {
  const metadata = { get: (key: string) => error.metadata.get(key)[0]?.toString() ?? null };
  return fromRpcStatus({ code: error.code, message: error.details, metadata }, "MOVE_CUT", error);
}

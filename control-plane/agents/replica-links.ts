/**
 * From this replica's gateway to another's, for calls to hosts that are connected there. Each link is for one call, so
 * that a move which is slow holds up no other, and its certificate is made for it: nothing is kept that could expire.
 */
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import http2, { type ClientHttp2Session } from "node:http2";
import type { PeerCertificate } from "node:tls";
import { Fault } from "#kernel/fault.ts";
import { keepAlive } from "#kernel/keep-alive.ts";
import type { Logger } from "#kernel/log.ts";
import { gatewayPeer, peerOf } from "#kernel/peer.ts";
import { deadline } from "#kernel/retry.ts";
import type { Authority } from "./authority.ts";

export interface ReplicaLinksOptions {
  readonly authority: Authority;
  readonly replicaId: string;
  /** The gateway of the replica that holds the host's connection; undefined when none does. */
  locate(hostId: string): Promise<string | undefined>;
  readonly keepAliveMs: number;
  /** What the other side may send ahead. */
  readonly windowBytes: number;
  readonly log: Logger;
}

/** For the handshake, and for clocks that differ. */
const certificateLifeMs = 10 * 60_000;
const connectLimitMs = 5_000;

export class ReplicaLinks {
  readonly #options: ReplicaLinksOptions;

  constructor(options: ReplicaLinksOptions) {
    this.#options = options;
  }

  /** A session to the gateway that the host is connected to, for the caller to end; undefined when there is none. */
  async open(hostId: string, parent: AbortSignal): Promise<ClientHttp2Session | undefined> {
    using signal = deadline(connectLimitMs, "reaching the other replica", parent);
    const address = await this.#options.locate(hostId);
    if (address === undefined) return undefined;
    const session = await this.#connect(address);
    try {
      await once(session, "connect", { signal });
    } catch (cause) {
      session.destroy();
      throw new Fault("unavailable", "the replica that holds the host cannot be reached", {
        reason: "HOST_NOT_CONNECTED",
        cause,
      });
    }
    session.setLocalWindowSize(this.#options.windowBytes);
    return session;
  }

  async #connect(address: string): Promise<ClientHttp2Session> {
    const { authority, replicaId, keepAliveMs, windowBytes, log } = this.#options;
    const { privatePem, certificatePem } = await authority.issueReplica(replicaId, certificateLifeMs);
    const session = http2.connect(`https://${address}`, {
      ...{ key: privatePem, cert: certificatePem, ca: authority.certificatePem, minVersion: "TLSv1.3" },
      // The name that is asked for; an address would be none.
      servername: gatewayPeer.name,
      checkServerIdentity: (_name: string, certificate: PeerCertificate) => checkGateway(certificate),
      settings: { initialWindowSize: windowBytes, enablePush: false },
    });
    session.on("error", (error) => log.debug("gateway.link-error", { address, error }));
    keepAlive(session, keepAliveMs);
    return session;
  }
}

function checkGateway(certificate: PeerCertificate): Error | undefined {
  const role = peerOf(new X509Certificate(certificate.raw))?.role;
  return role === gatewayPeer.role ? undefined : new Error("the certificate is not a gateway's");
}

import type { X509Certificate } from "node:crypto";

/**
 * Who a certificate of this cloud speaks for. It stands in the certificate as one URI, so that a peer is
 * known by what it is, whatever address it is reached at: hosts move, sit behind NAT, and share names.
 */
export const peerRoles = ["gateway", "host", "operator", "replica"] as const;
export interface Peer {
  readonly role: (typeof peerRoles)[number];
  /** The host's or replica's id or the operator's name; of a gateway, the word "gateway". */
  readonly name: string;
}

const shape = /^URI:skerry:\/\/(gateway|host|operator|replica)\/([A-Za-z0-9._@-]{1,64})$/;

export const peerNamePattern = /^[A-Za-z0-9._@-]{1,64}$/;

export const gatewayPeer: Peer = { role: "gateway", name: "gateway" };

export function peerUri({ role, name }: Peer): string {
  return `skerry://${role}/${name}`;
}

/** Reads the peer from a certificate's alternative names; undefined unless there is exactly one. */
export function peerOf(certificate: Pick<X509Certificate, "subjectAltName">): Peer | undefined {
  const uris = (certificate.subjectAltName ?? "").split(", ").filter((name) => name.startsWith("URI:"));
  const [, role, name] = shape.exec(uris[0] ?? "") ?? [];
  const known = peerRoles.find((candidate) => candidate === role);
  return uris.length === 1 && known && name !== undefined ? { role: known, name } : undefined;
}

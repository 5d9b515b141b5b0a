/**
 * The cloud's own certificate authority. Who a certificate speaks for is one URI in it (see kernel/peer),
 * and this is the only place that writes one: requests are read for their public key and nothing else.
 * The key lives in the key store, so all replicas share one authority; whoever reads it owns the cloud.
 */
import "reflect-metadata";
import { createPrivateKey, createPublicKey, type KeyObject, webcrypto, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import * as x509 from "@peculiar/x509";
import { createCertificateRequest, newPrivateKey } from "#kernel/certificate-request.ts";
import { Fault } from "#kernel/fault.ts";
import { signLeaseTicket } from "#kernel/lease-ticket.ts";
import { gatewayPeer, peerNamePattern, peerOf, peerUri, type Peer } from "#kernel/peer.ts";
import { pinOf } from "#kernel/pin.ts";

export interface KeyPairPem {
  readonly privatePem: string;
  readonly publicPem: string;
}

/** Keys of the cloud, shared by all replicas. */
export interface KeyStore {
  find(name: string): Promise<KeyPairPem | undefined>;
  /** Stores the pair unless there is one already; gives the one that is stored. */
  insertIfAbsent(name: string, pair: KeyPairPem): Promise<KeyPairPem>;
}

export interface AuthorityOptions {
  readonly keys: KeyStore;
  readonly hostLifeMs: number;
  readonly operatorLifeMs: number;
  readonly now?: () => number;
}

/** A key with its certificate, of the control plane's own. */
export interface OwnIdentity {
  readonly privatePem: string;
  readonly certificatePem: string;
}

export interface VerifiedPeer extends Peer {
  readonly expired: boolean;
}

const keyName = "ca";
const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
/** Hosts' clocks may be behind by this much and still accept a certificate that was just made. */
const skewMs = 5 * 60_000;
const authorityLifeMs = 10 * 365 * 86_400_000;
const { serverAuth, clientAuth } = x509.ExtendedKeyUsage;

export class Authority {
  readonly certificatePem: string;
  /** What enrolment tokens carry, so that a new host knows this cloud from an impostor. */
  readonly pin: string;
  readonly #root: X509Certificate;
  readonly #issuer: x509.X509Certificate;
  readonly #signingKey: webcrypto.CryptoKey;
  readonly #ticketKey: KeyObject;
  readonly #options: Omit<AuthorityOptions, "keys"> & { readonly now: () => number };

  private constructor(pair: KeyPairPem, signingKey: webcrypto.CryptoKey, options: AuthorityOptions) {
    this.certificatePem = pair.publicPem;
    this.#root = new X509Certificate(pair.publicPem);
    this.#issuer = new x509.X509Certificate(pair.publicPem);
    this.#signingKey = signingKey;
    this.#ticketKey = createPrivateKey(pair.privatePem);
    this.#options = { ...options, now: options.now ?? Date.now };
    this.pin = pinOf(this.#root.raw);
  }

  /** Opens the cloud's authority; the first replica ever makes it. */
  static async open(options: AuthorityOptions): Promise<Authority> {
    const pair =
      (await options.keys.find(keyName)) ??
      (await options.keys.insertIfAbsent(keyName, await createRoot((options.now ?? Date.now)())));
    return new Authority(pair, await importPrivateKey(pair.privatePem), options);
  }

  /** Checks a certificate request and gives the pin of its key; throws CERTIFICATE_REQUEST_INVALID. */
  async pinOfRequest(request: string): Promise<string> {
    return pinOf(new Uint8Array((await readRequest(request)).rawData));
  }

  /** A host's certificate, for the gateway (as a client) and for its own listener (as a server). */
  issueHost(hostId: string, request: string): Promise<string> {
    const names = [{ type: "dns" as const, value: hostId }];
    return this.#issue(request, { role: "host", name: hostId }, this.#options.hostLifeMs, names, [
      serverAuth,
      clientAuth,
    ]);
  }

  /** A client certificate for a person's tools, short-lived because it cannot be taken back. */
  issueOperator(name: string, request: string): Promise<string> {
    return this.#issue(request, { role: "operator", name }, this.#options.operatorLifeMs, [], [clientAuth]);
  }

  /** A new key and certificate for the gateway, reachable by these DNS names and addresses. */
  issueGateway(names: readonly string[], lifeMs: number): Promise<OwnIdentity> {
    const altNames = names.map((value) => ({
      type: isIP(value) ? ("ip" as const) : ("dns" as const),
      value,
    }));
    return this.#issueOwn((request) => this.#issue(request, gatewayPeer, lifeMs, altNames, [serverAuth]));
  }

  /** A new key and certificate for a replica that calls another's gateway. */
  issueReplica(replicaId: string, lifeMs: number): Promise<OwnIdentity> {
    const peer: Peer = { role: "replica", name: replicaId };
    return this.#issueOwn((request) => this.#issue(request, peer, lifeMs, [], [clientAuth]));
  }

  /** Leave to ask a host about its lease, for another host. */
  issueLeaseTicket(hostId: string): string {
    return signLeaseTicket(hostId, this.#ticketKey, this.#options.now());
  }

  /** Who a certificate speaks for; undefined when this cloud did not issue it. It may have expired. */
  verify(certificate: X509Certificate): VerifiedPeer | undefined {
    if (!certificate.checkIssued(this.#root) || !certificate.verify(this.#root.publicKey)) return undefined;
    const peer = peerOf(certificate);
    const now = this.#options.now();
    if (!peer || now < Date.parse(certificate.validFrom)) return undefined;
    return { ...peer, expired: now > Date.parse(certificate.validTo) };
  }

  async #issueOwn(issue: (request: string) => Promise<string>): Promise<OwnIdentity> {
    const key = newPrivateKey();
    const certificatePem = await issue(createCertificateRequest(key));
    return { privatePem: key.export({ type: "pkcs8", format: "pem" }).toString(), certificatePem };
  }

  async #issue(
    request: string,
    peer: Peer,
    lifeMs: number,
    names: readonly { type: "dns" | "ip"; value: string }[],
    usages: readonly x509.ExtendedKeyUsage[],
  ): Promise<string> {
    if (!peerNamePattern.test(peer.name)) {
      throw new Fault("invalid", "a certificate's name may have letters, digits and ._@- only", {
        reason: "NAME_INVALID",
      });
    }
    const now = this.#options.now();
    const uri = { type: "url" as const, value: peerUri(peer) };
    const certificate = await x509.X509CertificateGenerator.create({
      subject: [{ CN: [peer.name] }],
      issuer: this.#issuer.subjectName,
      publicKey: await readRequest(request),
      signingKey: this.#signingKey,
      signingAlgorithm: algorithm,
      notBefore: new Date(now - skewMs),
      notAfter: new Date(now + lifeMs),
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([...usages]),
        new x509.SubjectAlternativeNameExtension([uri, ...names]),
        await x509.AuthorityKeyIdentifierExtension.create(this.#issuer.publicKey),
      ],
    });
    return `${certificate.toString("pem")}\n`;
  }
}

/** Checks that whoever asks holds the key, and that it is of the one kind we issue for. */
async function readRequest(pem: string): Promise<x509.PublicKey> {
  const refuse = (cause?: unknown) =>
    new Fault("invalid", "the certificate request must be for a P-256 key and signed with it", {
      reason: "CERTIFICATE_REQUEST_INVALID",
      cause,
    });
  const request = await (async () => {
    const parsed = new x509.Pkcs10CertificateRequest(pem);
    const key = createPublicKey({ key: Buffer.from(parsed.publicKey.rawData), format: "der", type: "spki" });
    const curve = key.asymmetricKeyDetails?.namedCurve;
    return curve === "prime256v1" && (await parsed.verify()) ? parsed : undefined;
  })().catch((error: unknown) => {
    throw refuse(error);
  });
  if (!request) throw refuse();
  return request.publicKey;
}

async function createRoot(now: number): Promise<KeyPairPem> {
  const key = newPrivateKey();
  const publicKey = createPublicKey(key).export({ type: "spki", format: "der" });
  const privatePem = key.export({ type: "pkcs8", format: "pem" }).toString();
  const keys = {
    privateKey: await importPrivateKey(privatePem),
    publicKey: await webcrypto.subtle.importKey("spki", publicKey, algorithm, true, ["verify"]),
  };
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: [{ CN: ["Skerry cloud authority"] }],
    keys,
    signingAlgorithm: algorithm,
    notBefore: new Date(now - skewMs),
    notAfter: new Date(now + authorityLifeMs),
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { privatePem, publicPem: `${certificate.toString("pem")}\n` };
}

function importPrivateKey(pem: string): Promise<webcrypto.CryptoKey> {
  const pkcs8 = createPrivateKey(pem).export({ type: "pkcs8", format: "der" });
  return webcrypto.subtle.importKey("pkcs8", pkcs8, algorithm, false, ["sign"]);
}

/**
 * The host's identity: its private key, its certificate and the authorities it trusts, in one PEM file of
 * mode 0600. One file, because it is replaced as a whole: after a crash there is never a key beside another
 * key's certificate. The key is stored before the first certificate is asked for, so that an enrolment whose
 * answer was lost can be repeated with the same key.
 */
import { createPrivateKey, X509Certificate, type KeyObject } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { createSecureContext } from "node:tls";
import { createCertificateRequest, newPrivateKey } from "#kernel/certificate-request.ts";
import { Fault } from "#kernel/fault.ts";
import { peerOf } from "#kernel/peer.ts";
import { DurableFolder } from "../machines/durable-file.ts";
import type { Trust } from "./dial.ts";

export interface IssuedCertificate {
  readonly certificate: string;
  readonly authorities: string;
}

export interface IdentityStatus {
  readonly hostId: string | undefined;
  readonly expiresAt: Date | undefined;
  readonly renewalDueAt: Date | undefined;
}

export interface Credentials {
  readonly key: string;
  /** The certificate and, after it, what it was issued by. */
  readonly cert: string;
  readonly ca: string;
}

interface State {
  readonly key: KeyObject;
  readonly issued?: {
    readonly pem: IssuedCertificate;
    readonly hostId: string;
    readonly leaf: X509Certificate;
  };
}

export class Identity {
  readonly #path: string;
  readonly #now: () => number;
  /** Spreads the renewals of hosts that joined together: up to a tenth of a certificate's life. */
  readonly #jitter: number;
  readonly #listeners = new Set<() => void>();
  #state: State;
  #trust: Trust | undefined;

  private constructor(path: string, state: State, now: () => number) {
    this.#path = path;
    this.#state = state;
    this.#now = now;
    this.#jitter = Math.random() / 10;
  }

  /** Reads the identity; undefined when this host has none. */
  static async find(path: string, now: () => number = Date.now): Promise<Identity | undefined> {
    const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return undefined;
      throw error;
    });
    return text === undefined ? undefined : new Identity(path, parse(text), now);
  }

  /** Reads the identity, or makes a new key for a host that has yet to enrol. */
  static async open(path: string, now: () => number = Date.now): Promise<Identity> {
    const found = await Identity.find(path, now);
    if (found) return found;
    const state: State = { key: newPrivateKey() };
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await write(path, state);
    return new Identity(path, state, now);
  }

  /** Undefined until the host has enrolled. */
  get hostId(): string | undefined {
    return this.#state.issued?.hostId;
  }

  /** For a client that dials again and again: what costs the most time of it is made once. Throws NOT_ENROLLED. */
  get trust(): Trust {
    if (this.#trust) return this.#trust;
    const { credentials } = this;
    const secureContext = createSecureContext({ ...credentials, minVersion: "TLSv1.3" });
    return (this.#trust = { ...credentials, secureContext });
  }

  /** What the authority signs with. Throws NOT_ENROLLED. */
  get authorityKey(): KeyObject {
    return new X509Certificate(this.credentials.ca).publicKey;
  }

  /** For TLS, as client and as server. Throws NOT_ENROLLED. */
  get credentials(): Credentials {
    const { key, issued } = this.#state;
    if (!issued) {
      throw new Fault("unauthenticated", "this host has not joined a cloud", { reason: "NOT_ENROLLED" });
    }
    const { certificate, authorities } = issued.pem;
    return { key: keyPem(key), cert: certificate + authorities, ca: authorities };
  }

  get status(): IdentityStatus {
    const leaf = this.#state.issued?.leaf;
    const dueAt = this.#renewalDueAt();
    return {
      hostId: this.hostId,
      expiresAt: leaf && new Date(leaf.validTo),
      renewalDueAt: dueAt === undefined ? undefined : new Date(dueAt),
    };
  }

  /** How long until the certificate should be renewed; 0 when that is due. */
  get renewalInMs(): number {
    return Math.max(0, (this.#renewalDueAt() ?? Infinity) - this.#now());
  }

  get expired(): boolean {
    const leaf = this.#state.issued?.leaf;
    return leaf !== undefined && this.#now() > Date.parse(leaf.validTo);
  }

  /** Gets the first certificate, for the key that is stored; gives the host's id. */
  async enrol(ask: (request: string) => Promise<IssuedCertificate>): Promise<string> {
    const { key } = this.#state;
    return this.#accept(key, await ask(createCertificateRequest(key)));
  }

  /** Gets a new certificate for a new key. Until it is stored, the old ones stay in use. */
  async renew(ask: (request: string) => Promise<IssuedCertificate>): Promise<void> {
    const key = newPrivateKey();
    await this.#accept(key, await ask(createCertificateRequest(key)));
  }

  /** Calls back after each new certificate. */
  onChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  async #accept(key: KeyObject, { certificate, authorities }: IssuedCertificate): Promise<string> {
    const issued = check(key, { certificate, authorities });
    await write(this.#path, { key, issued });
    this.#state = { key, issued };
    this.#trust = undefined;
    for (const listener of this.#listeners) listener();
    return issued.hostId;
  }

  #renewalDueAt(): number | undefined {
    const leaf = this.#state.issued?.leaf;
    if (!leaf) return undefined;
    const from = Date.parse(leaf.validFrom);
    return from + (Date.parse(leaf.validTo) - from) * (1 / 3 + this.#jitter);
  }
}

/** Refuses a certificate that is not this key's, not a host's, or not from the authority beside it. */
function check(key: KeyObject, pem: IssuedCertificate): NonNullable<State["issued"]> {
  const leaf = new X509Certificate(pem.certificate);
  const authority = new X509Certificate(pem.authorities);
  const peer = peerOf(leaf);
  const sound = peer?.role === "host" && leaf.checkPrivateKey(key) && leaf.verify(authority.publicKey);
  if (!sound) {
    throw new Fault("internal", "the certificate does not belong to this host's key", {
      reason: "CERTIFICATE_WRONG",
    });
  }
  return { pem, leaf, hostId: peer.name };
}

function keyPem(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }).toString();
}

function format({ key, issued }: State): string {
  return keyPem(key) + (issued ? issued.pem.certificate + issued.pem.authorities : "");
}

function parse(text: string): State {
  try {
    return parseState(text);
  } catch (cause) {
    throw new Fault(
      "conflict",
      "this host's identity file is damaged: restore it, or join again without it",
      {
        reason: "IDENTITY_UNREADABLE",
        cause,
      },
    );
  }
}

function parseState(text: string): State {
  const key = createPrivateKey(text);
  const [certificate, ...authorities] =
    text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n/g) ?? [];
  if (certificate === undefined) return { key };
  return { key, issued: check(key, { certificate, authorities: authorities.join("") }) };
}

function write(path: string, state: State): Promise<void> {
  return new DurableFolder(dirname(path)).write(basename(path), format(state));
}

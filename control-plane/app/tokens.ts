/**
 * Access tokens and API keys: who is asking, from an `Authorization` header. Access tokens are EdDSA
 * JWTs whose key all replicas share; they say who, for which project and since which login, never with
 * what rights. Those are looked up every few seconds, for both kinds: what was revoked stops working.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes } from "node:crypto";
import { errors, jwtVerify, SignJWT } from "jose";
import { z } from "zod";
import type { Principal } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { BoundedCache } from "./bounded-cache.ts";
import type { Session } from "./identity-store.ts";

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

/** Who somebody is now, whatever a token said when it was made. */
export interface Identities {
  findSession(session: Session): Promise<Principal | undefined>;
  findByApiKey(secretHash: string): Promise<Principal | undefined>;
}

export interface TokensOptions {
  readonly keys: KeyStore;
  readonly identities: Identities;
  readonly now?: () => number;
  readonly lifeSeconds?: number;
}

export const accessTokenSeconds = 3600;
export const apiKeyPrefix = "sk_";
const keyName = "jwt";
const issuer = "skerry";
const algorithm = "EdDSA";
const cachedTokens = 10_000;
/** How long a change of rights, or a revocation, may stay unheard of. */
const cacheMs = 5_000;
const maxCredentialLength = 4096;
const scheme = /^(?:bearer|token) +(\S+)$/i;

const claims = z.object({
  sub: z.string(),
  project: z.string(),
  fam: z.string(),
  exp: z.number(),
});

interface Known {
  readonly principal: Principal;
  readonly untilMs: number;
}

/** The digest under which a secret is stored. The secrets have 256 random bits: no salt is needed. */
export const digestOf = (secret: string): string => createHash("sha256").update(secret).digest("hex");

/** A new secret such as `sk_...`. */
export const newSecret = (prefix: string): string => `${prefix}${randomBytes(32).toString("base64url")}`;

export class Tokens {
  readonly #privateKey;
  readonly #publicKey;
  readonly #identities: Identities;
  readonly #now: () => number;
  readonly #lifeSeconds: number;
  readonly #lookups = new Map<string, Promise<Principal>>();
  readonly #known = new BoundedCache<Known>(cachedTokens);

  private constructor(pair: KeyPairPem, options: TokensOptions) {
    this.#privateKey = createPrivateKey(pair.privatePem);
    this.#publicKey = createPublicKey(pair.publicPem);
    this.#identities = options.identities;
    this.#now = options.now ?? Date.now;
    this.#lifeSeconds = options.lifeSeconds ?? accessTokenSeconds;
  }

  /** Opens the cloud's signing key; the first replica ever makes it. */
  static async open(options: TokensOptions): Promise<Tokens> {
    const { keys } = options;
    const pair = (await keys.find(keyName)) ?? (await keys.insertIfAbsent(keyName, newPair()));
    return new Tokens(pair, options);
  }

  /** Signs an access token for a user, of a family of refresh tokens: it ends with that. */
  async issue(
    principal: Pick<Principal, "id" | "project">,
    family: string,
  ): Promise<{ readonly token: string; readonly expiresIn: number }> {
    const nowSeconds = Math.floor(this.#now() / 1000);
    const token = await new SignJWT({ project: principal.project, fam: family })
      .setProtectedHeader({ alg: algorithm, typ: "JWT" })
      .setSubject(principal.id)
      .setIssuer(issuer)
      .setAudience(issuer)
      .setIssuedAt(nowSeconds)
      .setExpirationTime(nowSeconds + this.#lifeSeconds)
      .setJti(randomBytes(12).toString("base64url"))
      .sign(this.#privateKey);
    return { token, expiresIn: this.#lifeSeconds };
  }

  /** Who is asking. Answers at once for a credential seen before; throws `unauthenticated`. */
  authenticate(authorization: string | undefined): Principal | Promise<Principal> {
    if (authorization === undefined) {
      throw new Fault("unauthenticated", "the request has no Authorization header", {
        reason: "CREDENTIALS_MISSING",
      });
    }
    const credential = scheme.exec(authorization)?.[1];
    if (credential === undefined || credential.length > maxCredentialLength) {
      throw new Fault("unauthenticated", "Authorization must be `Bearer <token>` or `Token <API key>`", {
        reason: "CREDENTIALS_MALFORMED",
      });
    }
    const known = this.#known.get(credential);
    if (known && known.untilMs > this.#now()) return known.principal;
    return this.#lookUpOnce(credential);
  }

  /** Forgets what was found out about credentials, such as after an API key was revoked here. */
  forget(): void {
    this.#known.clear();
  }

  /** Requests that come while a credential is being looked up share the answer. */
  #lookUpOnce(credential: string): Promise<Principal> {
    const running = this.#lookups.get(credential);
    if (running) return running;
    const isKey = credential.startsWith(apiKeyPrefix);
    const lookup = (isKey ? this.#checkApiKey(credential) : this.#checkToken(credential)).finally(() =>
      this.#lookups.delete(credential),
    );
    this.#lookups.set(credential, lookup);
    return lookup;
  }

  async #checkApiKey(secret: string): Promise<Principal> {
    const principal = await this.#identities.findByApiKey(digestOf(secret));
    if (principal) return this.#remember(secret, principal, Infinity);
    this.#known.delete(secret);
    throw new Fault("unauthenticated", "the API key is not known, or not good any more", {
      reason: "API_KEY_UNKNOWN",
    });
  }

  async #checkToken(token: string): Promise<Principal> {
    const { sub, project, fam, exp } = await this.#verify(token);
    const principal = await this.#identities.findSession({ accountId: sub, project, family: fam });
    if (principal) return this.#remember(token, principal, exp * 1000);
    this.#known.delete(token);
    throw new Fault("unauthenticated", "the login has ended", { reason: "SESSION_ENDED" });
  }

  #remember(credential: string, principal: Principal, endMs: number): Principal {
    this.#known.set(credential, { principal, untilMs: Math.min(this.#now() + cacheMs, endMs) });
    return principal;
  }

  async #verify(token: string): Promise<z.infer<typeof claims>> {
    try {
      const { payload } = await jwtVerify(token, this.#publicKey, {
        algorithms: [algorithm],
        issuer,
        audience: issuer,
        // Refuses what was made in the future, too.
        maxTokenAge: this.#lifeSeconds,
        currentDate: new Date(this.#now()),
      });
      return claims.parse(payload);
    } catch (cause) {
      const expired = cause instanceof errors.JWTExpired;
      const told = expired ? "the access token has expired" : "the access token is not valid";
      const reason = expired ? "TOKEN_EXPIRED" : "TOKEN_INVALID";
      throw new Fault("unauthenticated", told, { reason, cause });
    }
  }
}

function newPair(): KeyPairPem {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  return {
    privatePem: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    publicPem: publicKey.export({ type: "spki", format: "pem" }).toString(),
  };
}

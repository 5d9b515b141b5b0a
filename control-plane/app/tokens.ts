/**
 * Access tokens and API keys: who is asking, from an `Authorization` header. Access tokens are EdDSA
 * JWTs whose key all replicas share; they hold for an hour and cannot be called back. API keys are
 * stored as digests and are looked up again every few seconds, so that a revoked one stops working.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes } from "node:crypto";
import { errors, jwtVerify, SignJWT } from "jose";
import { z } from "zod";
import { roles, type Principal } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { BoundedCache } from "./bounded-cache.ts";

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

/** Finds the owner of an API key by the key's digest. */
export interface ApiKeyOwners {
  findOwner(secretHash: string): Promise<Principal | undefined>;
}

export interface TokensOptions {
  readonly keys: KeyStore;
  readonly apiKeys: ApiKeyOwners;
  readonly now?: () => number;
  readonly lifeSeconds?: number;
}

export const accessTokenSeconds = 3600;
export const apiKeyPrefix = "sk_";
const keyName = "jwt";
const issuer = "skerry";
const algorithm = "EdDSA";
const cachedTokens = 10_000;
const apiKeyCacheMs = 5_000;
const maxCredentialLength = 4096;
const scheme = /^(?:bearer|token) +(\S+)$/i;

const claims = z.object({
  sub: z.string(),
  name: z.string(),
  project: z.string(),
  role: z.enum(roles),
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
  readonly #apiKeys: ApiKeyOwners;
  readonly #now: () => number;
  readonly #lifeSeconds: number;
  readonly #lookups = new Map<string, Promise<Principal>>();
  readonly #known = new BoundedCache<Known>(cachedTokens);

  private constructor(pair: KeyPairPem, options: TokensOptions) {
    this.#privateKey = createPrivateKey(pair.privatePem);
    this.#publicKey = createPublicKey(pair.publicPem);
    this.#apiKeys = options.apiKeys;
    this.#now = options.now ?? Date.now;
    this.#lifeSeconds = options.lifeSeconds ?? accessTokenSeconds;
  }

  /** Opens the cloud's signing key; the first replica ever makes it. */
  static async open(options: TokensOptions): Promise<Tokens> {
    const { keys } = options;
    const pair = (await keys.find(keyName)) ?? (await keys.insertIfAbsent(keyName, newPair()));
    return new Tokens(pair, options);
  }

  /** Signs an access token for a user. */
  async issue(principal: Principal): Promise<{ readonly token: string; readonly expiresIn: number }> {
    const nowSeconds = Math.floor(this.#now() / 1000);
    const token = await new SignJWT({
      name: principal.name,
      project: principal.project,
      role: principal.role,
    })
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
    return credential.startsWith(apiKeyPrefix) ? this.#checkApiKey(credential) : this.#checkToken(credential);
  }

  /** Forgets what was found out about credentials, such as after an API key was revoked here. */
  forget(): void {
    this.#known.clear();
  }

  /** Requests that come while a key is being looked up share the answer. */
  #checkApiKey(secret: string): Promise<Principal> {
    const running = this.#lookups.get(secret);
    if (running) return running;
    const lookup = this.#lookUp(secret).finally(() => this.#lookups.delete(secret));
    this.#lookups.set(secret, lookup);
    return lookup;
  }

  async #lookUp(secret: string): Promise<Principal> {
    const principal = await this.#apiKeys.findOwner(digestOf(secret));
    if (!principal) {
      this.#known.delete(secret);
      throw new Fault("unauthenticated", "the API key is not known", { reason: "API_KEY_UNKNOWN" });
    }
    this.#known.set(secret, { principal, untilMs: this.#now() + apiKeyCacheMs });
    return principal;
  }

  async #checkToken(token: string): Promise<Principal> {
    const { sub, name, project, role, exp } = await this.#verify(token);
    const principal: Principal = { kind: "user", id: sub, name, project, role };
    this.#known.set(token, { principal, untilMs: exp * 1000 });
    return principal;
  }

  async #verify(token: string): Promise<z.infer<typeof claims>> {
    try {
      const { payload } = await jwtVerify(token, this.#publicKey, {
        algorithms: [algorithm],
        issuer,
        audience: issuer,
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

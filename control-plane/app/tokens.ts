/**
 * Access tokens and API keys: who is asking, from an `Authorization` header. Access tokens are EdDSA
 * JWTs whose key all replicas share; they say who, for which project and since which login, never with
 * what rights. Those are looked up every few seconds, for both kinds: what was revoked stops working.
 */
import { createHash, randomBytes, type KeyObject } from "node:crypto";
import { errors, jwtVerify, SignJWT } from "jose";
import { z } from "zod";
import type { Principal } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import type { ResourceEvent } from "../engine/events.ts";
import { BoundedCache } from "./bounded-cache.ts";
import type { Grant } from "./identity-store.ts";
import type { SigningKey } from "./signing-keys.ts";

/** The keys that sign; those of all replicas. */
export interface TokenKeys {
  current(): Promise<Pick<SigningKey, "kid" | "privateKey">>;
  /** The public key of that name. */
  find(kid: string): Promise<KeyObject | undefined>;
}

/** Who somebody is now, whatever a token said when it was made. */
export interface Identities {
  findGranted(grant: Grant): Promise<Principal | undefined>;
  findByApiKey(secretHash: string): Promise<Principal | undefined>;
}

export interface TokensOptions {
  readonly keys: TokenKeys;
  readonly identities: Identities;
  readonly now?: () => number;
  readonly lifeSeconds?: number;
}

export const accessTokenSeconds = 3600;
export const apiKeyPrefix = "sk_";
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
  family: z.string().optional(),
  key: z.string().optional(),
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

/** Whether an event may have taken rights away: what is known of credentials is asked for again. */
export const endsLogins = ({ kind, type }: Pick<ResourceEvent, "kind" | "type">): boolean =>
  (kind === "user" || kind === "project" || kind === "group") && !type.endsWith(".created");

export class Tokens {
  readonly #keys: TokenKeys;
  readonly #identities: Identities;
  readonly #now: () => number;
  readonly #lifeSeconds: number;
  readonly #lookups = new Map<string, Promise<Principal>>();
  readonly #known = new BoundedCache<Known>(cachedTokens);

  constructor(options: TokensOptions) {
    this.#keys = options.keys;
    this.#identities = options.identities;
    this.#now = options.now ?? Date.now;
    this.#lifeSeconds = options.lifeSeconds ?? accessTokenSeconds;
  }

  /** Signs an access token for a principal. It ends with the login or the API key that it comes from. */
  async issue(
    { id, project }: Pick<Principal, "id" | "project">,
    from: Grant["from"],
  ): Promise<{ readonly token: string; readonly expiresIn: number }> {
    const nowSeconds = Math.floor(this.#now() / 1000);
    const { kid, privateKey } = await this.#keys.current();
    const token = await new SignJWT({ project, ...from })
      .setProtectedHeader({ alg: algorithm, typ: "JWT", kid })
      .setSubject(id)
      .setIssuer(issuer)
      .setAudience(issuer)
      .setIssuedAt(nowSeconds)
      .setExpirationTime(nowSeconds + this.#lifeSeconds)
      .setJti(randomBytes(12).toString("base64url"))
      .sign(privateKey);
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
    const { sub, project, family, key, exp } = await this.#verify(token);
    const from = family === undefined ? key !== undefined && { key } : { family };
    const principal = from && (await this.#identities.findGranted({ accountId: sub, project, from }));
    if (principal) return this.#remember(token, principal, exp * 1000);
    this.#known.delete(token);
    throw new Fault("unauthenticated", "the login has ended", { reason: "SESSION_ENDED" });
  }

  #remember(credential: string, principal: Principal, endMs: number): Principal {
    this.#known.set(credential, { principal, untilMs: Math.min(this.#now() + cacheMs, endMs) });
    return principal;
  }

  async #publicKey(kid: string | undefined): Promise<KeyObject> {
    const key = kid === undefined ? undefined : await this.#keys.find(kid);
    if (!key) throw new errors.JWKSNoMatchingKey();
    return key;
  }

  async #verify(token: string): Promise<z.infer<typeof claims>> {
    try {
      const { payload } = await jwtVerify(token, ({ kid }) => this.#publicKey(kid), {
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

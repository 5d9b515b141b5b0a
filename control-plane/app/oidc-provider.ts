/** An OpenID Connect provider as its client: authorization code with PKCE, identity by a signed token. */
import { createHash } from "node:crypto";
import { createLocalJWKSet, errors, jwtVerify, type JSONWebKeySet } from "jose";
import { z } from "zod";
import { Fault } from "#kernel/fault.ts";

export interface OidcClient {
  readonly issuer: string;
  readonly clientId: string;
  /** Empty: a public client. */
  readonly clientSecret: string;
}

export interface OidcIdentity {
  readonly subject: string;
  /** Only when the provider has verified it. */
  readonly email: string | undefined;
}

const timeoutMs = 10_000;
const keepMs = 3_600_000;
/** An unknown key's name makes us look for new keys, but not more often than this. */
const lookAgainMs = 10_000;
const clockToleranceSeconds = 60;
// Nothing that a public key could be mistaken for a secret of.
const algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

const metadata = z.object({
  issuer: z.string(),
  authorization_endpoint: z.url(),
  token_endpoint: z.url(),
  jwks_uri: z.url(),
});
const keySet = z.object({ keys: z.array(z.looseObject({ kty: z.string() })) });
const tokenAnswer = z.object({ id_token: z.string().max(16_384) });
const claims = z.object({
  sub: z.string().min(1).max(255),
  nonce: z.string(),
  azp: z.string().optional(),
  email: z.string().max(254).optional(),
  email_verified: z.boolean().optional(),
});

type Metadata = z.infer<typeof metadata>;

export class OidcProvider {
  readonly #client: OidcClient;
  readonly #now: () => number;
  #metadata: { readonly value: Metadata; readonly untilMs: number } | undefined;
  #keys: { readonly value: JSONWebKeySet; readonly atMs: number } | undefined;

  constructor(client: OidcClient, now: () => number = Date.now) {
    this.#client = client;
    this.#now = now;
  }

  get issuer(): string {
    return this.#client.issuer;
  }

  /** Where somebody is sent to say who they are. */
  async authorizationUrl(
    request: {
      readonly state: string;
      readonly nonce: string;
      readonly verifier: string;
      readonly redirectUri: string;
    },
    signal: AbortSignal,
  ): Promise<string> {
    const url = new URL((await this.#discover(signal)).authorization_endpoint);
    const parameters = {
      response_type: "code",
      client_id: this.#client.clientId,
      redirect_uri: request.redirectUri,
      scope: "openid email",
      state: request.state,
      nonce: request.nonce,
      code_challenge: createHash("sha256").update(request.verifier).digest("base64url"),
      code_challenge_method: "S256",
    };
    for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
    return url.href;
  }

  /** Who came back with a code; throws `unauthenticated`. */
  async identify(
    answer: {
      readonly code: string;
      readonly nonce: string;
      readonly verifier: string;
      readonly redirectUri: string;
    },
    signal: AbortSignal,
  ): Promise<OidcIdentity> {
    const { token_endpoint: endpoint } = await this.#discover(signal);
    const { clientId, clientSecret } = this.#client;
    const body = new URLSearchParams({
      grant_type: "authorization_code",
      code: answer.code,
      redirect_uri: answer.redirectUri,
      client_id: clientId,
      code_verifier: answer.verifier,
    });
    const basic = [clientId, clientSecret].map(encodeURIComponent).join(":");
    const response = await this.#fetch(endpoint, signal, {
      method: "POST",
      body,
      headers: clientSecret === "" ? {} : { authorization: `Basic ${Buffer.from(basic).toString("base64")}` },
    });
    if (!response.ok) throw refused(`the token endpoint answered ${String(response.status)}`);
    const token = tokenAnswer.safeParse(await readJson(response));
    if (!token.success) throw refused("the answer has no identity token");
    return this.#verify(token.data.id_token, answer.nonce, signal);
  }

  async #verify(token: string, nonce: string, signal: AbortSignal): Promise<OidcIdentity> {
    const { issuer, clientId } = this.#client;
    const check = async () => {
      const { payload } = await jwtVerify(token, createLocalJWKSet(await this.#jwks(signal)), {
        algorithms,
        issuer,
        audience: clientId,
        requiredClaims: ["exp", "iat"],
        clockTolerance: clockToleranceSeconds,
        currentDate: new Date(this.#now()),
      });
      return claims.parse(payload);
    };
    try {
      const told = await check().catch((error: unknown) => {
        const mayBeNew = error instanceof errors.JWKSNoMatchingKey && this.#forgetKeys();
        if (mayBeNew) return check();
        throw error;
      });
      if (told.nonce !== nonce) throw new Error("another nonce");
      if (told.azp !== undefined && told.azp !== clientId) throw new Error("for another client");
      return { subject: told.sub, email: told.email_verified === true ? told.email : undefined };
    } catch (cause) {
      if (cause instanceof Fault) throw cause;
      throw refused("the identity token is not good", cause);
    }
  }

  async #discover(signal: AbortSignal): Promise<Metadata> {
    if (this.#metadata && this.#metadata.untilMs > this.#now()) return this.#metadata.value;
    const url = `${this.#client.issuer.replace(/\/$/, "")}/.well-known/openid-configuration`;
    const value = await this.#read(url, metadata, signal);
    if (value.issuer !== this.#client.issuer) throw unreachable(new Error(`it calls itself ${value.issuer}`));
    this.#metadata = { value, untilMs: this.#now() + keepMs };
    return value;
  }

  async #jwks(signal: AbortSignal): Promise<JSONWebKeySet> {
    if (this.#keys && this.#keys.atMs + keepMs > this.#now()) return this.#keys.value;
    const value = await this.#read((await this.#discover(signal)).jwks_uri, keySet, signal);
    this.#keys = { value, atMs: this.#now() };
    return value;
  }

  /** True when they are old enough to be asked for again. */
  #forgetKeys(): boolean {
    const old = this.#keys !== undefined && this.#keys.atMs + lookAgainMs <= this.#now();
    if (old) this.#keys = undefined;
    return old;
  }

  async #read<T>(url: string, schema: z.ZodType<T>, signal: AbortSignal): Promise<T> {
    const response = await this.#fetch(url, signal);
    const parsed = schema.safeParse(response.ok ? await readJson(response) : undefined);
    if (parsed.success) return parsed.data;
    throw unreachable(new Error(`${url} answered ${String(response.status)}: ${parsed.error.message}`));
  }

  async #fetch(url: string, signal: AbortSignal, init: RequestInit = {}): Promise<Response> {
    try {
      return await fetch(url, {
        ...init,
        redirect: "error",
        signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
      });
    } catch (cause) {
      throw unreachable(cause);
    }
  }
}

async function readJson(response: Response): Promise<unknown> {
  return response.json().catch((cause: unknown) => {
    throw unreachable(cause);
  });
}

const refused = (why: string, cause: unknown = new Error(why)) =>
  new Fault("unauthenticated", "the identity provider's answer is not good: log in again", {
    reason: "OIDC_REFUSED",
    cause,
  });

const unreachable = (cause: unknown) =>
  new Fault("unavailable", "the identity provider cannot be reached now", {
    reason: "OIDC_UNAVAILABLE",
    cause,
  });

/** The ways to say who is asking: a token, an API key, or a login that is kept fresh. */
import { Fault, isFault } from "#kernel/fault.ts";
import type { Credentials, Transport } from "./transport.ts";

export interface Tokens {
  readonly accessToken: string;
  readonly refreshToken: string;
  /** Unix milliseconds. */
  readonly expiresAt: number;
}

/** Where a login is kept between runs. Several processes may share one. */
export interface TokenStore {
  load(): Promise<Tokens | undefined>;
  save(tokens: Tokens): Promise<void>;
}

/** A token or key that is what it is: when it is refused, nothing can be done. */
export function fixedCredentials(
  given: { readonly token: string } | { readonly apiKey: string },
): Credentials {
  const header = "token" in given ? `Bearer ${given.token}` : `Token ${given.apiKey}`;
  return { authorization: () => Promise.resolve(header), renew: () => Promise.resolve(false) };
}

interface TokenAnswer {
  readonly access_token: string;
  readonly refresh_token: string;
  readonly expires_in: number;
}

export interface PasswordLogin {
  readonly username: string;
  readonly password: string;
  readonly mfaCode?: string;
  /** Name or id of the project to work in. Default: the user's own. */
  readonly project?: string;
}

/** Logs in with a password. */
export async function login(
  transport: Transport,
  given: PasswordLogin,
  signal?: AbortSignal,
): Promise<Tokens> {
  const { username, password, mfaCode, project } = given;
  const body = { username, password, ...(mfaCode && { mfa_code: mfaCode }), ...(project && { project }) };
  return toTokens(
    await transport.json<TokenAnswer>({ method: "POST", path: "/v1/auth/login", body, signal }),
  );
}

/** A login at the identity provider that has been begun. */
export interface OidcLogin {
  /** Where the person says who they are. */
  readonly authorization_url: string;
  /** What they come back with, and nobody else. */
  readonly state: string;
}

/** Begins a login at the identity provider of the cloud. */
export function beginOidcLogin(
  transport: Transport,
  given: { readonly redirectUri: string; readonly project?: string | undefined },
  signal?: AbortSignal,
): Promise<OidcLogin> {
  const body = { redirect_uri: given.redirectUri, ...(given.project && { project: given.project }) };
  return transport.required({ method: "POST", path: "/skerry/v1/oidc/begin", body, signal });
}

/** Ends it with the code that the person came back with. Tried once only: a state is good once. */
export async function finishOidcLogin(
  transport: Transport,
  body: { readonly state: string; readonly code: string },
  signal?: AbortSignal,
): Promise<Tokens> {
  const call = { method: "POST", path: "/skerry/v1/oidc/finish", body, signal, attempts: 1 } as const;
  return toTokens(await transport.json<TokenAnswer>(call));
}

/**
 * Exchanges a refresh token. Tried once only: the token is used up by the first try, and a second one
 * would look like theft.
 */
async function refresh(transport: Transport, refreshToken: string, signal: AbortSignal): Promise<Tokens> {
  const body = { refresh_token: refreshToken };
  const call = { method: "POST", path: "/v1/auth/refresh", body, signal, attempts: 1 } as const;
  return toTokens(await transport.json<TokenAnswer>(call));
}

function toTokens(answer: TokenAnswer | undefined): Tokens {
  if (!answer) throw new Fault("internal", "the login was answered without tokens");
  return {
    accessToken: answer.access_token,
    refreshToken: answer.refresh_token,
    expiresAt: Date.now() + answer.expires_in * 1000,
  };
}

/** Renewed this long before it expires, so that no request is lost to the clock. */
const marginMs = 60_000;

export interface LoginCredentialsOptions {
  /** Asks as nobody. */
  readonly transport: Transport;
  readonly store: TokenStore;
  /** Without it, an ended login must be renewed by the user. */
  readonly password?: { readonly username: string; readonly password: string };
}

/** A login that renews itself: by its refresh token, else by the password. One renewal at a time. */
export class LoginCredentials implements Credentials {
  readonly #options: LoginCredentialsOptions;
  #tokens: Tokens | undefined;
  #renewal: Promise<Tokens> | undefined;

  constructor(options: LoginCredentialsOptions) {
    this.#options = options;
  }

  async authorization(signal: AbortSignal): Promise<string> {
    this.#tokens ??= await this.#options.store.load();
    const fresh = this.#tokens && this.#tokens.expiresAt - marginMs > Date.now();
    const tokens = fresh && this.#tokens ? this.#tokens : await this.#renewOnce(signal);
    return `Bearer ${tokens.accessToken}`;
  }

  async renew(refused: string, signal: AbortSignal): Promise<boolean> {
    const current = this.#tokens;
    if (current && `Bearer ${current.accessToken}` !== refused) return true;
    await this.#renewOnce(signal);
    return true;
  }

  #renewOnce(signal: AbortSignal): Promise<Tokens> {
    this.#renewal ??= this.#renew(signal).finally(() => (this.#renewal = undefined));
    return this.#renewal;
  }

  async #renew(signal: AbortSignal): Promise<Tokens> {
    const { store, transport, password } = this.#options;
    const known = this.#tokens;
    const stored = await store.load();
    // Another process may have renewed it already; its tokens are the family's newest.
    if (stored && stored.accessToken !== known?.accessToken && stored.expiresAt - marginMs > Date.now()) {
      return (this.#tokens = stored);
    }
    const newest = stored ?? known;
    let tokens: Tokens;
    try {
      if (!newest) throw new Fault("unauthenticated", "not logged in", { reason: "NOT_LOGGED_IN" });
      tokens = await refresh(transport, newest.refreshToken, signal);
    } catch (thrown) {
      if (!password || !isFault(thrown, "unauthenticated", "invalid", "denied")) throw thrown;
      tokens = await login(transport, password, signal);
    }
    await store.save(tokens);
    return (this.#tokens = tokens);
  }
}

/** A store that forgets with the process. */
export function memoryStore(): TokenStore {
  let kept: Tokens | undefined;
  return {
    load: () => Promise.resolve(kept),
    save: (tokens) => {
      kept = tokens;
      return Promise.resolve();
    },
  };
}

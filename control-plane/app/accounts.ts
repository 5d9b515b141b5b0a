/**
 * Logging in and staying logged in. A login tells nothing about which usernames exist: an unknown one
 * costs the same time and gets the same answer as a wrong password, a lock or a disabled user.
 */
import type { Ctx, Principal, Trail } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import type { Account, AccountStore } from "./account-store.ts";
import { rootProject } from "./authorisation.ts";
import type { IdentityStore } from "./identity-store.ts";
import { LoginGuard } from "./login-guard.ts";
import type { Passwords } from "./passwords.ts";
import type { SecondFactor } from "./second-factor.ts";
import type { RefreshToken, SessionStore } from "./session-store.ts";
import { digestOf, newSecret, type Tokens } from "./tokens.ts";

export interface TokenPair {
  readonly access_token: string;
  readonly refresh_token: string;
  readonly expires_in: number;
  readonly token_type: "Bearer";
}

export interface Credentials {
  readonly username: string;
  readonly password: string;
  /** Id or name of the project that the login is for. Default: the user's own. */
  readonly project?: string | undefined;
  /** One-time or recovery code, for users with a second factor. */
  readonly mfaCode?: string | undefined;
  /** Where the login comes from. */
  readonly address?: string | undefined;
}

export interface AccountsOptions {
  readonly store: AccountStore;
  readonly sessions: SessionStore;
  readonly identities: Pick<IdentityStore, "findMember">;
  readonly passwords: Passwords;
  readonly secondFactor: Pick<SecondFactor, "check">;
  readonly tokens: Pick<Tokens, "issue" | "forget">;
  readonly now?: () => number;
}

const refreshPrefix = "rt_";
const refreshLifeMs = 30 * 86_400_000;

export class Accounts {
  readonly #options: AccountsOptions;
  readonly #now: () => number;
  readonly #guard: LoginGuard;

  constructor(options: AccountsOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#guard = new LoginGuard(options);
  }

  /** Creates the cloud's administrator unless there is any account; true when it was created. */
  async ensureFirst(username: string, password: string): Promise<boolean> {
    const { store, passwords } = this.#options;
    return store.insertFirst({
      id: newId("user", this.#now()),
      username,
      passwordHash: await passwords.hash(password),
      role: "admin",
      project: rootProject,
    });
  }

  /**
   * Exchanges a username and password for tokens.
   * @param trail of the request: told who it is
   */
  async login(credentials: Credentials, trail?: Trail): Promise<TokenPair> {
    const account = await this.#authenticate(credentials);
    return this.#begin(account, credentials.project, trail);
  }

  /** Tokens for an account that somebody else has identified. */
  async loginAs(accountId: string, project: string | undefined, trail?: Trail): Promise<TokenPair> {
    return this.#begin({ id: accountId }, project, trail);
  }

  async #authenticate({ mfaCode, address = "", ...claim }: Credentials): Promise<Account> {
    const account = await this.#guard.identify({ ...claim, address });
    if (!account) throw invalidCredentials();
    const passed = await this.#options.secondFactor.check(account.id, mfaCode);
    if (passed === "required") {
      throw new Fault("unauthenticated", "this user logs in with a one-time code as well", {
        reason: "MFA_REQUIRED",
      });
    }
    await (passed ? this.#guard.succeeded(account, address) : this.#guard.failed(account, address));
    if (passed) return account;
    throw invalidCredentials();
  }

  async #begin(
    { id, passwordHash }: { readonly id: string; readonly passwordHash?: string | null },
    project: string | undefined,
    trail: Trail | undefined,
  ): Promise<TokenPair> {
    const { identities, sessions } = this.#options;
    const principal = await identities.findMember(id, project);
    if (!principal) throw invalidCredentials();
    const secret = newSecret(refreshPrefix);
    const first = this.#tokenOf(principal, secret, newId("fam", this.#now()));
    if (!(await sessions.begin(first, passwordHash))) throw invalidCredentials();
    if (trail) trail.who = principal;
    return this.#pair(principal, secret, first.family);
  }

  /**
   * Exchanges a refresh token for a new pair. Each is good once: a second use means that somebody has a
   * copy, so the whole family of tokens ends and the user logs in again.
   */
  async refresh(refreshToken: string, trail?: Trail): Promise<TokenPair> {
    const { sessions, identities, tokens } = this.#options;
    const found = await sessions.find(digestOf(refreshToken));
    if (!found) throw invalidRefresh();
    if (found.used) await sessions.revokeFamily(found);
    else {
      const principal = await identities.findMember(found.accountId, found.project);
      if (!principal || found.expiresAt.getTime() <= this.#now()) throw invalidRefresh();
      const secret = newSecret(refreshPrefix);
      const next = this.#tokenOf(principal, secret, found.family);
      const renewed = await sessions.renew(found, next, new Date(this.#now()));
      if (renewed && trail) trail.who = principal;
      if (renewed) return this.#pair(principal, secret, found.family);
    }
    tokens.forget();
    throw invalidRefresh();
  }

  /** An access token for an API key's owner with the key's rights; it is renewed by the key. */
  async exchangeKey(principal: Principal, trail?: Trail): Promise<Omit<TokenPair, "refresh_token">> {
    if (principal.keyId === undefined) throw invalidCredentials();
    if (trail) trail.who = principal;
    const { token, expiresIn } = await this.#options.tokens.issue(principal, { key: principal.keyId });
    return { access_token: token, expires_in: expiresIn, token_type: "Bearer" };
  }

  /** Ends the family of one refresh token, or all logins of the caller. */
  async logout(ctx: Ctx, refreshToken: string | undefined): Promise<void> {
    const { sessions, tokens } = this.#options;
    if (refreshToken === undefined) await sessions.revokeAccount(ctx.principal.id);
    else {
      const found = await sessions.find(digestOf(refreshToken));
      if (found?.accountId === ctx.principal.id) await sessions.revokeFamily(found);
    }
    tokens.forget();
  }

  #tokenOf({ id, project }: Principal, secret: string, family: string): RefreshToken {
    const expiresAt = new Date(this.#now() + refreshLifeMs);
    return { tokenHash: digestOf(secret), family, accountId: id, project, expiresAt };
  }

  async #pair(principal: Principal, refreshToken: string, family: string): Promise<TokenPair> {
    const { token, expiresIn } = await this.#options.tokens.issue(principal, { family });
    return { access_token: token, refresh_token: refreshToken, expires_in: expiresIn, token_type: "Bearer" };
  }
}

const invalidCredentials = () =>
  new Fault(
    "unauthenticated",
    "wrong username or password; after several failures a login is refused for some minutes",
    { reason: "INVALID_CREDENTIALS" },
  );

const invalidRefresh = () =>
  new Fault("unauthenticated", "the refresh token is not valid any more: log in again", {
    reason: "REFRESH_TOKEN_INVALID",
  });

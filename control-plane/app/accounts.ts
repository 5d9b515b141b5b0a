/**
 * Logging in and staying logged in. A login tells nothing about which usernames exist: an unknown one
 * costs the same time and gets the same answer as a wrong password, a lock or a disabled user.
 */
import type { Ctx, Principal } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import type { Account, AccountStore } from "./account-store.ts";
import { rootProject } from "./authorisation.ts";
import type { IdentityStore } from "./identity-store.ts";
import type { Passwords } from "./passwords.ts";
import type { SecondFactor } from "./second-factor.ts";
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
}

export interface AccountsOptions {
  readonly store: AccountStore;
  readonly identities: Pick<IdentityStore, "findMember">;
  readonly passwords: Passwords;
  readonly secondFactor: Pick<SecondFactor, "check">;
  readonly tokens: Pick<Tokens, "issue" | "forget">;
  readonly now?: () => number;
}

const failuresBeforeLock = 5;
const lockMs = 5 * 60_000;
const refreshLifeMs = 30 * 86_400_000;

export class Accounts {
  readonly #options: AccountsOptions;
  readonly #now: () => number;

  constructor(options: AccountsOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
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

  /** Exchanges a username and password for tokens. */
  async login(credentials: Credentials): Promise<TokenPair> {
    const account = await this.#authenticate(credentials);
    const principal = await this.#options.identities.findMember(account.id, credentials.project);
    if (!principal) throw invalidCredentials();
    return this.#grant(principal, newId("fam", this.#now()));
  }

  async #authenticate({ username, password, mfaCode }: Credentials): Promise<Account> {
    const { store, passwords, secondFactor } = this.#options;
    const account = await store.findByUsername(username);
    const right = await passwords.matches(account?.passwordHash, password);
    const locked = account?.lockedUntil && account.lockedUntil.getTime() > this.#now();
    if (account && right && !locked) {
      const passed = await secondFactor.check(account.id, mfaCode);
      if (passed === "required") {
        throw new Fault("unauthenticated", "this user logs in with a one-time code as well", {
          reason: "MFA_REQUIRED",
        });
      }
      if (passed) {
        await store.recordSuccess(account.id);
        return account;
      }
    }
    // For an unknown user too, so that the clock tells nothing.
    if (!locked) {
      await store.recordFailure(account?.id ?? "", failuresBeforeLock, new Date(this.#now() + lockMs));
    }
    throw invalidCredentials();
  }

  /**
   * Exchanges a refresh token for a new pair. Each is good once: a second use means that somebody has a
   * copy, so the whole family of tokens ends and the user logs in again.
   */
  async refresh(refreshToken: string): Promise<TokenPair> {
    const { store, identities, tokens } = this.#options;
    const found = await store.useRefreshToken(digestOf(refreshToken), new Date(this.#now()));
    if (!found) throw invalidRefresh();
    const { token, used } = found;
    if (used) {
      await store.revokeFamily(token.family);
      tokens.forget();
      throw invalidRefresh();
    }
    const principal = await identities.findMember(token.accountId, token.project);
    if (!principal || token.expiresAt.getTime() <= this.#now()) throw invalidRefresh();
    return this.#grant(principal, token.family);
  }

  /** An access token for an API key's owner with the key's rights; it is renewed by the key. */
  async exchangeKey(principal: Principal): Promise<Omit<TokenPair, "refresh_token">> {
    if (principal.keyId === undefined) throw invalidCredentials();
    const { token, expiresIn } = await this.#options.tokens.issue(principal, { key: principal.keyId });
    return { access_token: token, expires_in: expiresIn, token_type: "Bearer" };
  }

  /** Ends the family of one refresh token, or all logins of the caller. */
  async logout(ctx: Ctx, refreshToken: string | undefined): Promise<void> {
    const { store, tokens } = this.#options;
    if (refreshToken === undefined) await store.revokeAccount(ctx.principal.id);
    else {
      const found = await store.useRefreshToken(digestOf(refreshToken), new Date(this.#now()));
      if (found?.token.accountId === ctx.principal.id) await store.revokeFamily(found.token.family);
    }
    tokens.forget();
  }

  async #grant(principal: Principal, family: string): Promise<TokenPair> {
    const refreshToken = newSecret("rt_");
    await this.#options.store.insertRefreshToken({
      tokenHash: digestOf(refreshToken),
      family,
      accountId: principal.id,
      project: principal.project,
      expiresAt: new Date(this.#now() + refreshLifeMs),
    });
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

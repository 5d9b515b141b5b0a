/**
 * Users: the first one, logging in, refreshing, API keys. A login tells nothing about which usernames
 * exist: an unknown one costs the same time and gets the same answer as a wrong password or a lock.
 */
import { hash, verify, type Options } from "@node-rs/argon2";
import type { Ctx, Principal } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import type { Account, AccountStore, ApiKeyRow } from "./account-store.ts";
import { apiKeyPrefix, digestOf, newSecret, type ApiKeyOwners, type Tokens } from "./tokens.ts";

export interface TokenPair {
  readonly access_token: string;
  readonly refresh_token: string;
  readonly expires_in: number;
  readonly token_type: "Bearer";
}

export interface AccountsOptions {
  readonly store: AccountStore;
  readonly tokens: Pick<Tokens, "issue" | "forget">;
  readonly now?: () => number;
  /** Cheaper hashing for tests. */
  readonly passwordCost?: Pick<Options, "memoryCost" | "timeCost">;
}

const failuresBeforeLock = 5;
const lockMs = 5 * 60_000;
const refreshLifeMs = 30 * 86_400_000;
const maxApiKeys = 100;
/** Argon2id takes 19 MiB and a thread each: more at a time would let a flood of logins starve the rest. */
const maxLoginsAtOnce = 32;
const defaultCost = { memoryCost: 19_456, timeCost: 2 };
const rootProject = "root";

export class Accounts {
  readonly #options: AccountsOptions;
  readonly #now: () => number;
  #loginsNow = 0;
  #decoyHash: Promise<string> | undefined;

  constructor(options: AccountsOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Creates the cloud's administrator unless there is any account; true when it was created. */
  async ensureFirst(username: string, password: string): Promise<boolean> {
    const account: Account = {
      id: newId("user", this.#now()),
      username,
      passwordHash: await this.#hash(password),
      role: "admin",
      project: rootProject,
      lockedUntil: null,
    };
    return this.#options.store.insertFirst(account);
  }

  /** Exchanges a username and password for tokens. */
  async login(username: string, password: string): Promise<TokenPair> {
    if (this.#loginsNow >= maxLoginsAtOnce) {
      throw new Fault("unavailable", "too many logins at once", { reason: "LOGIN_BUSY" });
    }
    this.#loginsNow++;
    try {
      const account = await this.#authenticate(username, password);
      return await this.#grant(account, newId("fam", this.#now()));
    } finally {
      this.#loginsNow--;
    }
  }

  async #authenticate(username: string, password: string): Promise<Account> {
    const { store } = this.#options;
    const account = await store.findByUsername(username);
    const expected = account?.passwordHash ?? (await (this.#decoyHash ??= this.#hash(newSecret(""))));
    const right = await verify(expected, password);
    const locked = account?.lockedUntil && account.lockedUntil.getTime() > this.#now();
    if (account && right && !locked) {
      await store.recordSuccess(account.id);
      return account;
    }
    // For an unknown user too, so that the clock tells nothing.
    if (!locked) {
      await store.recordFailure(account?.id ?? "", failuresBeforeLock, new Date(this.#now() + lockMs));
    }
    throw new Fault(
      "unauthenticated",
      "wrong username or password; after several failures a login is refused for some minutes",
      { reason: "INVALID_CREDENTIALS" },
    );
  }

  /**
   * Exchanges a refresh token for a new pair. Each is good once: a second use means that somebody has a
   * copy, so the whole family of tokens ends and the user logs in again.
   */
  async refresh(refreshToken: string): Promise<TokenPair> {
    const { store } = this.#options;
    const found = await store.useRefreshToken(digestOf(refreshToken), new Date(this.#now()));
    if (!found) throw invalidRefresh();
    const { token, used } = found;
    if (used) {
      await store.revokeFamily(token.family);
      throw invalidRefresh();
    }
    const account = await store.findById(token.accountId);
    if (!account || token.expiresAt.getTime() <= this.#now()) throw invalidRefresh();
    return this.#grant(account, token.family);
  }

  /** Ends the family of one refresh token, or all of the caller's. */
  async logout(ctx: Ctx, refreshToken: string | undefined): Promise<void> {
    const { store } = this.#options;
    if (refreshToken === undefined) return store.revokeAccount(ctx.principal.id);
    const found = await store.useRefreshToken(digestOf(refreshToken), new Date(this.#now()));
    if (found?.token.accountId === ctx.principal.id) await store.revokeFamily(found.token.family);
  }

  /** Makes an API key; the key itself is in the answer and nowhere else. */
  async createApiKey(ctx: Ctx, name: string) {
    const { store } = this.#options;
    if ((await store.listApiKeys(ctx.principal.id)).length >= maxApiKeys) {
      throw new Fault("exhausted", `an account has at most ${maxApiKeys} API keys`, {
        reason: "TOO_MANY_API_KEYS",
      });
    }
    const secret = newSecret(apiKeyPrefix);
    const key = {
      id: newId("key", this.#now()),
      accountId: ctx.principal.id,
      secretHash: digestOf(secret),
      name,
    };
    return { ...toApiKey(await store.insertApiKey(key)), api_key: secret };
  }

  async listApiKeys(ctx: Ctx) {
    return (await this.#options.store.listApiKeys(ctx.principal.id)).map(toApiKey);
  }

  async deleteApiKey(ctx: Ctx, id: string): Promise<void> {
    if (!(await this.#options.store.deleteApiKey(ctx.principal.id, id))) {
      throw new Fault("notFound", "there is no API key with that id", { detail: { id: id.slice(0, 80) } });
    }
    this.#options.tokens.forget();
  }

  async #grant(account: Account, family: string): Promise<TokenPair> {
    const refreshToken = newSecret("rt_");
    await this.#options.store.insertRefreshToken({
      tokenHash: digestOf(refreshToken),
      family,
      accountId: account.id,
      expiresAt: new Date(this.#now() + refreshLifeMs),
    });
    const { token, expiresIn } = await this.#options.tokens.issue(principalOf(account));
    return { access_token: token, refresh_token: refreshToken, expires_in: expiresIn, token_type: "Bearer" };
  }

  #hash(password: string): Promise<string> {
    return hash(password, { ...defaultCost, ...this.#options.passwordCost });
  }
}

/** Looks up API keys for {@link Tokens}. */
export const apiKeyOwners = (store: Pick<AccountStore, "findByApiKey">): ApiKeyOwners => ({
  async findOwner(secretHash) {
    const account = await store.findByApiKey(secretHash);
    return account && principalOf(account);
  },
});

const principalOf = ({ id, username, project, role }: Account): Principal => ({
  kind: "user",
  id,
  name: username,
  project,
  role,
});

const toApiKey = (key: ApiKeyRow) => ({
  id: key.id,
  name: key.name,
  created_at: key.createdAt.toISOString(),
  last_used_at: key.lastUsedAt?.toISOString() ?? null,
});

const invalidRefresh = () =>
  new Fault("unauthenticated", "the refresh token is not valid any more: log in again", {
    reason: "REFRESH_TOKEN_INVALID",
  });

/** API keys: each speaks for its owner in one project, with at most the rights of whoever made it. */
import type { Ctx, Role } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import type { AccountStore, ApiKeyRow } from "./account-store.ts";
import { hasRole } from "./authorisation.ts";
import { apiKeyPrefix, digestOf, newSecret, type Tokens } from "./tokens.ts";

export interface ApiKeyWish {
  readonly name: string;
  /** Default: the maker's. */
  readonly role?: Role | undefined;
  readonly readOnly?: boolean | undefined;
  readonly expiresInSeconds?: number | undefined;
}

const maxApiKeys = 100;

export class ApiKeys {
  readonly #store: AccountStore;
  readonly #tokens: Pick<Tokens, "forget">;
  readonly #now: () => number;

  constructor(options: {
    readonly store: AccountStore;
    readonly tokens: Pick<Tokens, "forget">;
    readonly now?: () => number;
  }) {
    this.#store = options.store;
    this.#tokens = options.tokens;
    this.#now = options.now ?? Date.now;
  }

  /**
   * Makes a key for the caller's project; the key itself is in the answer and nowhere else.
   * @param owner whose key it is. Default: the caller's own
   */
  async create(ctx: Ctx, wish: ApiKeyWish, owner: string = ctx.principal.id) {
    const { principal } = ctx;
    const role = wish.role ?? principal.role;
    if (!hasRole(principal, role)) {
      throw new Fault("denied", `a key of the role ${role} is made by somebody of that role`, {
        reason: "ROLE_TOO_LOW",
      });
    }
    if ((await this.#store.listApiKeys(owner)).length >= maxApiKeys) {
      throw new Fault("exhausted", `an account has at most ${maxApiKeys} API keys`, {
        reason: "TOO_MANY_API_KEYS",
      });
    }
    const secret = newSecret(apiKeyPrefix);
    const { expiresInSeconds: life } = wish;
    const key = await this.#store.insertApiKey({
      id: newId("key", this.#now()),
      accountId: owner,
      secretHash: digestOf(secret),
      name: wish.name,
      project: principal.project,
      role,
      readOnly: wish.readOnly ?? false,
      expiresAt: life === undefined ? null : new Date(this.#now() + life * 1000),
    });
    return { ...toJson(key), api_key: secret };
  }

  async list(owner: string) {
    return (await this.#store.listApiKeys(owner)).map(toJson);
  }

  async delete(owner: string, id: string): Promise<void> {
    if (!(await this.#store.deleteApiKey(owner, id))) {
      throw new Fault("notFound", "there is no API key with that id", { detail: { id: id.slice(0, 80) } });
    }
    this.#tokens.forget();
  }
}

const toJson = (key: ApiKeyRow) => ({
  id: key.id,
  name: key.name,
  project: key.project,
  role: key.role,
  read_only: key.readOnly,
  created_at: key.createdAt.toISOString(),
  last_used_at: key.lastUsedAt?.toISOString() ?? null,
  expires_at: key.expiresAt?.toISOString() ?? null,
});

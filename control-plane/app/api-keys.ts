/** API keys: each speaks for its owner in one project, with at most the rights of whoever made it. */
import type { Ctx, Role } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import type { Database, Tx } from "../store/database.ts";
import type { AccountStore, ApiKeyRow } from "./account-store.ts";
import { type AuditFacts, postAudit } from "./audit.ts";
import { hasRole } from "./authorisation.ts";
import { oncePerKey } from "./idempotency.ts";
import type { MutationOptions, Reply } from "./resource-api.ts";
import type { Sealer } from "./sealer.ts";
import { checkName } from "./validation.ts";
import { apiKeyPrefix, digestOf, newSecret, type Tokens } from "./tokens.ts";

export interface ApiKeyWish {
  readonly name: string;
  /** Default: the maker's. */
  readonly role?: Role | undefined;
  readonly readOnly?: boolean | undefined;
  readonly expiresInSeconds?: number | undefined;
}

const maxApiKeys = 100;

export interface ApiKeysOptions {
  readonly database: Database;
  readonly store: AccountStore;
  readonly tokens: Pick<Tokens, "forget">;
  readonly sealer?: Sealer;
  readonly now?: () => number;
}

export interface CreateKeyOptions {
  /** Whose key it is. */
  readonly owner: string;
  readonly idempotency: MutationOptions["idempotency"];
  /** @param key with `api_key`, the key itself, in the first answer only */
  readonly respond: (key: ApiKeyInfo & { readonly api_key?: string }) => Reply;
}

export class ApiKeys {
  readonly #options: ApiKeysOptions;
  readonly #store: AccountStore;
  readonly #now: () => number;

  constructor(options: ApiKeysOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#now = options.now ?? Date.now;
  }

  /** Makes a key for the caller's project. */
  async create(ctx: Ctx, wish: ApiKeyWish, options: CreateKeyOptions): Promise<Reply> {
    const { principal } = ctx;
    const { owner, idempotency, respond } = options;
    const role = wish.role ?? principal.role;
    if (!hasRole(principal, role)) {
      throw new Fault("denied", `a key of the role ${role} is made by somebody of that role`, {
        reason: "ROLE_TOO_LOW",
      });
    }
    const { expiresInSeconds: life } = wish;
    const once = { account: principal.id, idempotency, sealer: this.#options.sealer };
    return this.#options.database.transaction((tx) =>
      oncePerKey(tx, once, async () => {
        await this.#checkRoom(tx, owner);
        const secret = newSecret(apiKeyPrefix);
        const made = await this.#store.insertApiKey(tx, {
          id: newId("key", this.#now()),
          accountId: owner,
          secretHash: digestOf(secret),
          name: checkName(wish.name),
          project: principal.project,
          role,
          readOnly: wish.readOnly ?? false,
          expiresAt: life === undefined ? null : new Date(this.#now() + life * 1000),
        });
        postAudit(tx, ctx, audited("create", made, { after: facts(made) }));
        const plain = respond(toJson(made));
        return { reply: respond({ ...toJson(made), api_key: secret }), plain };
      }),
    );
  }

  async #checkRoom(tx: Tx, owner: string): Promise<void> {
    if ((await this.#store.lockAndCountApiKeys(tx, owner)) < maxApiKeys) return;
    throw new Fault("exhausted", `an account has at most ${String(maxApiKeys)} API keys`, {
      reason: "TOO_MANY_API_KEYS",
    });
  }

  async list(owner: string) {
    return (await this.#store.listApiKeys(owner)).map(toJson);
  }

  async delete(ctx: Ctx, owner: string, id: string): Promise<void> {
    const { database, tokens } = this.#options;
    await database.transaction(async (tx) => {
      const gone = await this.#store.deleteApiKey(tx, owner, id);
      if (!gone)
        throw new Fault("notFound", "there is no API key with that id", { detail: { id: id.slice(0, 80) } });
      postAudit(tx, ctx, audited("delete", gone, { before: facts(gone) }));
    });
    tokens.forget();
  }
}

function audited(
  what: "create" | "delete",
  { id }: ApiKeyRow,
  change: Pick<AuditFacts, "before" | "after">,
): AuditFacts {
  return { action: `api_key.${what}`, resource: "api_key", resource_id: id, success: true, ...change };
}

/** What the audit log keeps of a key. */
function facts(key: ApiKeyRow): NonNullable<AuditFacts["after"]> {
  const { name, project, role, read_only, expires_at } = toJson(key);
  return { name, project, role, read_only, expires_at };
}

type ApiKeyInfo = ReturnType<typeof toJson>;

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

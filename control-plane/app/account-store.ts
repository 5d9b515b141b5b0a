/** Accounts, memberships, API keys and refresh tokens in PostgreSQL. Secrets are here as digests only. */
import type { Role } from "#kernel/ctx.ts";
import { insertResource } from "../engine/rows.ts";
import { user } from "../resources/user/user.resource.ts";
import type { Database, Queryable } from "../store/database.ts";
import { rootProject } from "./authorisation.ts";

export interface Account {
  readonly id: string;
  readonly username: string;
  /** Null: it has no password. */
  readonly passwordHash: string | null;
  readonly lockedUntil: Date | null;
}

export interface NewAccount {
  readonly id: string;
  readonly username: string;
  readonly passwordHash: string | null;
  readonly project: string;
  readonly role: Role;
}

export interface ApiKeyRow {
  readonly id: string;
  readonly name: string;
  readonly project: string;
  readonly role: Role;
  readonly readOnly: boolean;
  readonly createdAt: Date;
  readonly lastUsedAt: Date | null;
  readonly expiresAt: Date | null;
}

export type NewApiKey = Omit<ApiKeyRow, "createdAt" | "lastUsedAt"> & {
  readonly accountId: string;
  readonly secretHash: string;
};

export interface RefreshToken {
  readonly tokenHash: string;
  readonly family: string;
  readonly accountId: string;
  readonly project: string;
  readonly expiresAt: Date;
}

export interface Membership {
  readonly accountId: string;
  readonly username: string;
  readonly project: string;
  readonly role: Role;
}

const keyColumns = `id, name, project, role, read_only as "readOnly", created_at as "createdAt",
  last_used_at as "lastUsedAt", expires_at as "expiresAt"`;
const tokenColumns = `token_hash as "tokenHash", family, account_id as "accountId", project, expires_at as "expiresAt"`;

export class AccountStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Stores the cloud's administrator if there is no account at all; false when there was one. */
  async insertFirst(account: NewAccount): Promise<boolean> {
    return this.#database.transaction(async (tx) => {
      // Replicas start together: the lock makes the second one see the first one's account.
      await tx.query("lock table account in share row exclusive mode");
      if ((await tx.query("select from account limit 1")).length > 0) return false;
      await insertResource(tx, user, {
        id: account.id,
        project: rootProject,
        name: account.username,
        labels: {},
        desired: user.spec.parse({ plan: "enterprise" }),
        observed: { mfa_enabled: false },
        refs: {},
      });
      await insertAccount(tx, account);
      return true;
    });
  }

  async findByUsername(username: string): Promise<Account | undefined> {
    const sql = `select id, username, password_hash as "passwordHash", locked_until as "lockedUntil"
      from account where username = $1`;
    return (await this.#database.query<Account>(sql, [username]))[0];
  }

  /** Counts a failed login; at every `limit`th in a row the account is locked until `lockUntil`. */
  async recordFailure(id: string, limit: number, lockUntil: Date): Promise<void> {
    await this.#database.query(
      `update account set failed_logins = failed_logins + 1,
         locked_until = case when (failed_logins + 1) % $2 = 0 then $3 else locked_until end
       where id = $1`,
      [id, limit, lockUntil],
    );
  }

  async recordSuccess(id: string): Promise<void> {
    await this.#database.query(
      `update account set failed_logins = 0, locked_until = null
       where id = $1 and (failed_logins > 0 or locked_until is not null)`,
      [id],
    );
  }

  async setPassword(id: string, passwordHash: string): Promise<void> {
    await this.#database.query("update account set password_hash = $2, failed_logins = 0 where id = $1", [
      id,
      passwordHash,
    ]);
  }

  /** Makes an account a member of a project, or changes its role there. */
  async setRole(accountId: string, project: string, role: Role): Promise<void> {
    await insertMembership(this.#database, { id: accountId, project, role });
  }

  async removeRole(accountId: string, project: string): Promise<boolean> {
    const sql = "delete from membership where account_id = $1 and project = $2 returning 1";
    return (await this.#database.query(sql, [accountId, project])).length > 0;
  }

  async listMembers(project: string): Promise<readonly Membership[]> {
    const sql = `select m.account_id as "accountId", a.username, m.project, m.role
      from membership m join account a on a.id = m.account_id
      where m.project = $1 order by m.created_at, a.id limit 1000`;
    return this.#database.query<Membership>(sql, [project]);
  }

  /** The roles in a project of those of the accounts that have one. */
  async rolesIn(project: string, accountIds: readonly string[]): Promise<ReadonlyMap<string, Role>> {
    const rows = await this.#database.query<{ id: string; role: Role }>(
      "select account_id as id, role from membership where project = $1 and account_id = any($2)",
      [project, accountIds],
    );
    return new Map(rows.map(({ id, role }) => [id, role]));
  }

  async insertApiKey(key: NewApiKey): Promise<ApiKeyRow> {
    const [row] = await this.#database.query<ApiKeyRow>(
      `insert into api_key (id, account_id, secret_hash, name, project, role, read_only, expires_at)
       values ($1, $2, $3, $4, $5, $6, $7, $8) returning ${keyColumns}`,
      [key.id, key.accountId, key.secretHash, key.name, key.project, key.role, key.readOnly, key.expiresAt],
    );
    if (!row) throw new Error("insert returned no row");
    return row;
  }

  async listApiKeys(accountId: string): Promise<readonly ApiKeyRow[]> {
    const sql = `select ${keyColumns} from api_key where account_id = $1 order by created_at, id`;
    return this.#database.query<ApiKeyRow>(sql, [accountId]);
  }

  async deleteApiKey(accountId: string, id: string): Promise<boolean> {
    const sql = "delete from api_key where account_id = $1 and id = $2 returning id";
    return (await this.#database.query(sql, [accountId, id])).length > 0;
  }

  async insertRefreshToken(token: RefreshToken): Promise<void> {
    const { tokenHash, family, accountId, project, expiresAt } = token;
    await this.#database.query(
      "insert into refresh_token (token_hash, family, account_id, project, expires_at) values ($1, $2, $3, $4, $5)",
      [tokenHash, family, accountId, project, expiresAt],
    );
  }

  /** Marks a token as used, once: `used` tells that it had been used before. */
  async useRefreshToken(
    tokenHash: string,
    now: Date,
  ): Promise<{ readonly token: RefreshToken; readonly used: boolean } | undefined> {
    const [fresh] = await this.#database.query<RefreshToken>(
      `update refresh_token set used_at = $2 where token_hash = $1 and used_at is null returning ${tokenColumns}`,
      [tokenHash, now],
    );
    if (fresh) return { token: fresh, used: false };
    const sql = `select ${tokenColumns} from refresh_token where token_hash = $1`;
    const [token] = await this.#database.query<RefreshToken>(sql, [tokenHash]);
    return token && { token, used: true };
  }

  async revokeFamily(family: string): Promise<void> {
    await this.#database.query("delete from refresh_token where family = $1", [family]);
  }

  /** Ends all logins of an account; forgets those of others that have expired. */
  async revokeAccount(accountId: string): Promise<void> {
    await this.#database.query("delete from refresh_token where account_id = $1 or expires_at < now()", [
      accountId,
    ]);
  }
}

/** Stores the secret half of a user, and its role in the project where it is made. */
export async function insertAccount(on: Queryable, account: NewAccount): Promise<void> {
  const { id, username, passwordHash, role, project } = account;
  await on.query(
    "insert into account (id, username, password_hash, role, project) values ($1, $2, $3, $4, $5)",
    [id, username, passwordHash, role, project],
  );
  await insertMembership(on, { id, project, role });
}

async function insertMembership(
  on: Queryable,
  { id, project, role }: Pick<NewAccount, "id" | "project" | "role">,
): Promise<void> {
  await on.query(
    `insert into membership (account_id, project, role) values ($1, $2, $3)
     on conflict (account_id, project) do update set role = excluded.role`,
    [id, project, role],
  );
}

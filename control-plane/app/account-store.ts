/** Accounts, API keys and refresh tokens in PostgreSQL. Secrets are here as digests only. */
import type { Role } from "#kernel/ctx.ts";
import type { Database } from "../store/database.ts";

export interface Account {
  readonly id: string;
  readonly username: string;
  readonly passwordHash: string;
  readonly role: Role;
  readonly project: string;
  readonly lockedUntil: Date | null;
}

export interface ApiKeyRow {
  readonly id: string;
  readonly name: string;
  readonly createdAt: Date;
  readonly lastUsedAt: Date | null;
}

export interface RefreshToken {
  readonly tokenHash: string;
  readonly family: string;
  readonly accountId: string;
  readonly expiresAt: Date;
}

export interface AccountStore {
  /** Stores the account if there is none at all; false when there was one. */
  insertFirst(account: Account): Promise<boolean>;
  findByUsername(username: string): Promise<Account | undefined>;
  findById(id: string): Promise<Account | undefined>;
  /** Counts a failed login; at every `limit`th in a row the account is locked until `lockUntil`. */
  recordFailure(id: string, limit: number, lockUntil: Date): Promise<void>;
  recordSuccess(id: string): Promise<void>;
  insertApiKey(key: { id: string; accountId: string; secretHash: string; name: string }): Promise<ApiKeyRow>;
  listApiKeys(accountId: string): Promise<readonly ApiKeyRow[]>;
  deleteApiKey(accountId: string, id: string): Promise<boolean>;
  /** The owner of a key; notes that it was used. */
  findByApiKey(secretHash: string): Promise<Account | undefined>;
  insertRefreshToken(token: RefreshToken): Promise<void>;
  /** Marks a token as used, once: `used` tells that it had been used before. */
  useRefreshToken(
    tokenHash: string,
    now: Date,
  ): Promise<{ readonly token: RefreshToken; readonly used: boolean } | undefined>;
  revokeFamily(family: string): Promise<void>;
  revokeAccount(accountId: string): Promise<void>;
}

const accountColumns = `a.id, a.username, a.password_hash as "passwordHash", a.role, a.project, a.locked_until as "lockedUntil"`;
const keyColumns = `id, name, created_at as "createdAt", last_used_at as "lastUsedAt"`;
const tokenColumns = `token_hash as "tokenHash", family, account_id as "accountId", expires_at as "expiresAt"`;

export class SqlAccountStore implements AccountStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async insertFirst({ id, username, passwordHash, role, project }: Account): Promise<boolean> {
    return this.#database.transaction(async (tx) => {
      // Replicas start together: the lock makes the second one see the first one's account.
      await tx.query("lock table account in share row exclusive mode");
      const inserted = await tx.query(
        `insert into account (id, username, password_hash, role, project)
         select $1, $2, $3, $4, $5 where not exists (select from account) returning id`,
        [id, username, passwordHash, role, project],
      );
      return inserted.length > 0;
    });
  }

  async findByUsername(username: string): Promise<Account | undefined> {
    const sql = `select ${accountColumns} from account a where username = $1`;
    return (await this.#database.query<Account>(sql, [username]))[0];
  }

  async findById(id: string): Promise<Account | undefined> {
    const sql = `select ${accountColumns} from account a where id = $1`;
    return (await this.#database.query<Account>(sql, [id]))[0];
  }

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

  async insertApiKey(key: { id: string; accountId: string; secretHash: string; name: string }) {
    const [row] = await this.#database.query<ApiKeyRow>(
      `insert into api_key (id, account_id, secret_hash, name) values ($1, $2, $3, $4) returning ${keyColumns}`,
      [key.id, key.accountId, key.secretHash, key.name],
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

  async findByApiKey(secretHash: string): Promise<Account | undefined> {
    // Once a minute is exact enough, and spares a write for every request.
    await this.#database.query(
      `update api_key set last_used_at = now()
       where secret_hash = $1 and (last_used_at is null or last_used_at < now() - interval '1 minute')`,
      [secretHash],
    );
    const sql = `select ${accountColumns} from api_key k join account a on a.id = k.account_id where k.secret_hash = $1`;
    return (await this.#database.query<Account>(sql, [secretHash]))[0];
  }

  async insertRefreshToken({ tokenHash, family, accountId, expiresAt }: RefreshToken): Promise<void> {
    await this.#database.query(
      "insert into refresh_token (token_hash, family, account_id, expires_at) values ($1, $2, $3, $4)",
      [tokenHash, family, accountId, expiresAt],
    );
  }

  async useRefreshToken(tokenHash: string, now: Date) {
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

  async revokeAccount(accountId: string): Promise<void> {
    await this.#database.query("delete from refresh_token where account_id = $1 or expires_at < now()", [
      accountId,
    ]);
  }
}

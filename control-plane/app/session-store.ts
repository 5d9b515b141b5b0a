/**
 * Logins in PostgreSQL, by the family of their refresh tokens. Whoever begins, renews or ends logins of an
 * account holds its row, so that none comes to be behind the back of somebody who has just ended them all.
 */
import type { Database, Tx } from "../store/database.ts";

export interface RefreshToken {
  readonly tokenHash: string;
  readonly family: string;
  readonly accountId: string;
  readonly project: string;
  readonly expiresAt: Date;
}

export interface KnownToken extends RefreshToken {
  readonly used: boolean;
}

export class SessionStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Stores the first token of a login.
   * @param passwordHash what the login was checked against, if it was by password; false when it is another by now
   */
  async begin(token: RefreshToken, passwordHash: string | null | undefined): Promise<boolean> {
    return this.#database.transaction(async (tx) => {
      const sql = "select password_hash as hash from account where id = $1 for no key update";
      const [account] = await tx.query<{ hash: string | null }>(sql, [token.accountId]);
      if (!account || (passwordHash !== undefined && account.hash !== passwordHash)) return false;
      insertToken(tx, token);
      return true;
    });
  }

  async find(tokenHash: string): Promise<KnownToken | undefined> {
    const sql = `select token_hash as "tokenHash", family, account_id as "accountId", project,
      expires_at as "expiresAt", used_at is not null as used from refresh_token where token_hash = $1`;
    return (await this.#database.query<KnownToken>(sql, [tokenHash]))[0];
  }

  /** Puts the next token in the place of one; a second use ends the family, and is answered with false. */
  async renew(before: RefreshToken, next: RefreshToken, now: Date): Promise<boolean> {
    return this.#database.transaction(async (tx) => {
      await lockAccount(tx, before.accountId);
      const first = await tx.query(
        "update refresh_token set used_at = $2 where token_hash = $1 and used_at is null returning 1",
        [before.tokenHash, now],
      );
      if (first.length > 0) insertToken(tx, next);
      else endFamily(tx, before.family);
      return first.length > 0;
    });
  }

  async revokeFamily({ accountId, family }: Pick<RefreshToken, "accountId" | "family">): Promise<void> {
    await this.#database.transaction(async (tx) => {
      await lockAccount(tx, accountId);
      endFamily(tx, family);
    });
  }

  /** Ends all logins of an account. */
  async revokeAccount(accountId: string): Promise<void> {
    await this.#database.transaction(async (tx) => {
      await lockAccount(tx, accountId);
      endAll(tx, accountId);
    });
  }

  /** Sets another password, and ends all logins with it. */
  async setPassword(accountId: string, passwordHash: string): Promise<void> {
    await this.#database.transaction(async (tx) => {
      await tx.query(
        "update account set password_hash = $2, failed_logins = 0, locked_until = null where id = $1",
        [accountId, passwordHash],
      );
      tx.post("delete from login_address where account_id = $1", [accountId]);
      endAll(tx, accountId);
    });
  }
}

async function lockAccount(tx: Tx, accountId: string): Promise<void> {
  await tx.query("select from account where id = $1 for no key update", [accountId]);
}

function insertToken(tx: Tx, { tokenHash, family, accountId, project, expiresAt }: RefreshToken): void {
  tx.post(
    "insert into refresh_token (token_hash, family, account_id, project, expires_at) values ($1, $2, $3, $4, $5)",
    [tokenHash, family, accountId, project, expiresAt],
  );
}

function endFamily(tx: Tx, family: string): void {
  tx.post("delete from refresh_token where family = $1", [family]);
}

function endAll(tx: Tx, accountId: string): void {
  tx.post("delete from refresh_token where account_id = $1", [accountId]);
}

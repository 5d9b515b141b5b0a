/** Accounts, memberships and API keys in PostgreSQL. Secrets are here as digests only. */
import type { Role } from "#kernel/ctx.ts";
import { insertResource } from "../engine/rows.ts";
import { user } from "../resources/user/user.resource.ts";
import type { Database, Queryable, Tx } from "../store/database.ts";
import { rootProject } from "./authorisation.ts";

export interface Account {
  readonly id: string;
  readonly username: string;
  /** Null: it has no password. */
  readonly passwordHash: string | null;
  /** For addresses that are strange to it. */
  readonly lockedUntil: Date | null;
  /** How logins have gone from the address that was asked for. */
  readonly here: { readonly lockedUntil: Date | null; readonly succeededAt: Date | null };
}

/** What a failed login leads to. */
export interface FailureLimits {
  readonly address: number;
  readonly strangers: number;
  readonly lockUntil: Date;
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

export interface Membership {
  readonly accountId: string;
  readonly username: string;
  readonly project: string;
  readonly role: Role;
  /** Where the role comes from; null: the user has it in person. */
  readonly group: { readonly id: string; readonly name: string } | null;
}

const keyColumns = `id, name, project, role, read_only as "readOnly", created_at as "createdAt",
  last_used_at as "lastUsedAt", expires_at as "expiresAt"`;

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

  async findByUsername(username: string, address = ""): Promise<Account | undefined> {
    type Found = Omit<Account, "here"> & { hereLocked: Date | null; hereSucceeded: Date | null };
    const sql = `select a.id, a.username, a.password_hash as "passwordHash", a.locked_until as "lockedUntil",
        l.locked_until as "hereLocked", l.succeeded_at as "hereSucceeded"
      from account a left join login_address l on l.account_id = a.id and l.address = $2 where a.username = $1`;
    const [found] = await this.#database.query<Found>(sql, [username, address], "account_by_name");
    if (!found) return undefined;
    const { hereLocked, hereSucceeded, ...account } = found;
    return { ...account, here: { lockedUntil: hereLocked, succeededAt: hereSucceeded } };
  }

  /** Counts a failed login: of the address, and of the account where the address is strange to it. */
  async recordFailure(id: string, address: string, limits: FailureLimits): Promise<void> {
    await this.#database.query(
      `with here as (
         insert into login_address as l (account_id, address, failures) select id, $2, 1 from account where id = $1
         on conflict (account_id, address) do update set failures = l.failures + 1, at = now(),
           locked_until = case when (l.failures + 1) % $3 = 0 then $5 else l.locked_until end
         returning succeeded_at)
       update account set failed_logins = failed_logins + 1,
         locked_until = case when (failed_logins + 1) % $4 = 0 then $5 else locked_until end
       where id = $1 and (select succeeded_at from here) is null`,
      [id, address, limits.address, limits.strangers, limits.lockUntil],
      "login_failed",
    );
  }

  async recordSuccess(id: string, address: string, now: Date): Promise<void> {
    await this.#database.query(
      `with strangers as (
         update account set failed_logins = 0, locked_until = null
         where id = $1 and failed_logins > 0 and (locked_until is null or locked_until <= $3))
       insert into login_address as l (account_id, address, succeeded_at) values ($1, $2, $3)
       on conflict (account_id, address) do update
         set failures = 0, locked_until = null, succeeded_at = $3, at = now()
         where l.failures > 0 or l.succeeded_at is null or l.succeeded_at < $3 - interval '1 day'`,
      [id, address, now],
      "login_succeeded",
    );
  }

  /** What an account is in a project in person; nobody changes that before the transaction has ended. */
  async lockMember(
    tx: Tx,
    accountId: string,
    project: string,
  ): Promise<{ readonly username: string; readonly role: Role | null } | undefined> {
    const sql = `select a.username,
        (select m.role from membership m where m.account_id = a.id and m.project = p.id) as role
      from account a join resource p on p.id = $2 and p.kind = 'project' where a.id = $1 for no key update of a`;
    return (await tx.query<{ username: string; role: Role | null }>(sql, [accountId, project]))[0];
  }

  /** Makes an account a member of a project, or changes its role there. */
  async setRole(on: Queryable, accountId: string, project: string, role: Role): Promise<void> {
    await insertMembership(on, { id: accountId, project, role });
  }

  async removeRole(on: Queryable, accountId: string, project: string): Promise<void> {
    await on.query("delete from membership where account_id = $1 and project = $2", [accountId, project]);
  }

  async listMembers(project: string): Promise<readonly Membership[]> {
    const sql = `select m.account_id as "accountId", a.username, m.project, m.role,
        case when g.id is not null then jsonb_build_object('id', g.id, 'name', g.name) end as "group"
      from project_role m join account a on a.id = m.account_id left join resource g on g.id = m.group_id
      where m.project = $1 order by m.created_at, a.id, g.id limit 1000`;
    return this.#database.query<Membership>(sql, [project]);
  }

  /** The roles in a project of each of the accounts that has any there. */
  async rolesIn(
    project: string,
    accountIds: readonly string[],
  ): Promise<ReadonlyMap<string, readonly Role[]>> {
    const rows = await this.#database.query<{ id: string; roles: Role[] }>(
      `select account_id as id, array_agg(role) as roles from project_role
       where project = $1 and account_id = any($2) group by account_id`,
      [project, accountIds],
    );
    return new Map(rows.map(({ id, roles }) => [id, roles]));
  }

  /** How many keys an account has; nobody else adds one before the transaction has ended. */
  async lockAndCountApiKeys(tx: Tx, accountId: string): Promise<number> {
    await tx.query("select from account where id = $1 for no key update", [accountId]);
    const [row] = await tx.query<{ count: number }>(
      "select count(*)::int as count from api_key where account_id = $1",
      [accountId],
    );
    return row?.count ?? 0;
  }

  async insertApiKey(on: Queryable, key: NewApiKey): Promise<ApiKeyRow> {
    const [row] = await on.query<ApiKeyRow>(
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

  /** Gives the key that is gone now; undefined: there was none. */
  async deleteApiKey(on: Queryable, accountId: string, id: string): Promise<ApiKeyRow | undefined> {
    const sql = `delete from api_key where account_id = $1 and id = $2 returning ${keyColumns}`;
    return (await on.query<ApiKeyRow>(sql, [accountId, id]))[0];
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

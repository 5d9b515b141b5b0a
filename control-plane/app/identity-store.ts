/** Who somebody is in a project, as it stands now: asked again every few seconds for each credential in use. */
import type { Plan, Principal, Role } from "#kernel/ctx.ts";
import { roles } from "#kernel/ctx.ts";
import type { Database } from "../store/database.ts";
import { rootProject } from "./authorisation.ts";

/** What an access token stands for: an account in a project, as long as what it comes from is good. */
export interface Grant {
  readonly accountId: string;
  readonly project: string;
  /** A login, by the family of its refresh tokens, or an API key by its id. */
  readonly from: { readonly family: string } | { readonly key: string };
}

interface IdentityRow {
  readonly id: string;
  readonly name: string;
  readonly plan: Plan;
  readonly project: string;
  readonly roles: readonly Role[];
  readonly cloud_admin: boolean;
}

interface KeyRow extends IdentityRow {
  readonly key_id: string;
  readonly key_role: Role;
  readonly read_only: boolean;
}

/** Members of a project are what they or their groups are there; the cloud's administrators administer every project. */
const identity = `u.id, u.name, u.desired ->> 'plan' as plan, p.id as project,
  array(select r.role from project_role r where r.account_id = u.id and r.project = p.id) as roles,
  exists (select from project_role c
    where c.account_id = u.id and c.project = '${rootProject}' and c.role = 'admin') as cloud_admin`;
const joins = "join resource p on p.kind = 'project' and p.desired ->> 'disabled' = 'false'";
const enabled = "u.kind = 'user' and u.desired ->> 'disabled' = 'false'";

export class IdentityStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** The principal of an access token, if neither its login nor its API key was revoked. */
  async findGranted({ accountId, project, from }: Grant): Promise<Principal | undefined> {
    if ("key" in from) return this.#findKey("k.id = $1", from.key);
    const [row] = await this.#database.read<IdentityRow>(
      `select ${identity} from resource u ${joins}
       where ${enabled} and u.id = $1 and p.id = $2
         and exists (select from refresh_token t where t.family = $3 and t.account_id = u.id)`,
      [accountId, project, from.family],
      "identity_session",
    );
    return row && toPrincipal(row);
  }

  /** The principal that an API key speaks for, unless it has expired; notes that it was used. */
  async findByApiKey(secretHash: string): Promise<Principal | undefined> {
    return this.#findKey("k.secret_hash = $1", secretHash);
  }

  async #findKey(
    condition: "k.id = $1" | "k.secret_hash = $1",
    value: string,
  ): Promise<Principal | undefined> {
    const [row] = await this.#database.query<KeyRow>(
      // Once a minute is exact enough, and spares a write for every request.
      `with used as (
         update api_key k set last_used_at = now() where ${condition}
           and (k.last_used_at is null or k.last_used_at < now() - interval '1 minute'))
       select ${identity}, k.id as key_id, k.role as key_role, k.read_only
       from api_key k join resource u on u.id = k.account_id ${joins}
       where ${enabled} and ${condition} and p.id = k.project and (k.expires_at is null or k.expires_at > now())`,
      [value],
      `identity ${condition}`,
    );
    const principal = row && toPrincipal(row);
    if (!principal) return undefined;
    const role = lower(principal.role, row.key_role);
    return { ...principal, role, keyId: row.key_id, ...(row.read_only && { readOnly: true as const }) };
  }

  /**
   * The principal that an account is in a project, named by id or name.
   * @param project undefined: the account's own, or else the first that it is a member of
   */
  async findMember(accountId: string, project: string | undefined): Promise<Principal | undefined> {
    const rows = await this.#database.query<IdentityRow>(
      `select ${identity} from resource u ${joins}
       where ${enabled} and u.id = $1 and ($2::text is null or p.id = $2 or p.name = $2)
         and ($2::text is not null or p.id in (select project from project_role where account_id = $1))
       order by p.id = u.project desc, p.created_at limit 2`,
      [accountId, project ?? null],
      "identity_member",
    );
    return rows.map(toPrincipal).find((principal) => principal !== undefined);
  }
}

function toPrincipal({ id, name, plan, project, cloud_admin, ...row }: IdentityRow): Principal | undefined {
  const role = cloud_admin ? "admin" : highest(row.roles);
  return role && { kind: "user", id, name, project, role, plan };
}

/** The role that includes all others of these; undefined when there are none. */
export function highest(given: readonly Role[]): Role | undefined {
  return roles.findLast((role) => given.includes(role));
}

/** The lesser of two roles. */
export function lower(a: Role, b: Role): Role {
  return roles.indexOf(a) < roles.indexOf(b) ? a : b;
}

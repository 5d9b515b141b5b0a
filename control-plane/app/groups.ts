/** Who is in a group. Whoever is added or removed has the group's role, or has it no more, with their next request. */
import type { Ctx } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { changeResource, lockResource } from "../engine/rows.ts";
import { group } from "../resources/group/group.resource.ts";
import type { Database, Tx } from "../store/database.ts";
import { postAudit } from "./audit.ts";
import { ownAccount } from "./directory-guards.ts";
import type { ResourceService } from "./resource-service.ts";
import { notFound } from "./resource-queries.ts";
import type { Tokens } from "./tokens.ts";
import { userNotFound } from "./users.ts";

export interface GroupMember {
  readonly user_id: string;
  readonly username: string;
}

export interface GroupsOptions {
  readonly database: Database;
  readonly resources: Pick<ResourceService, "get">;
  readonly tokens: Pick<Tokens, "forget">;
}

const maxMembers = 1000;

export class Groups {
  readonly #options: GroupsOptions;

  constructor(options: GroupsOptions) {
    this.#options = options;
  }

  async listMembers(ctx: Ctx, groupId: string): Promise<readonly GroupMember[]> {
    const { database, resources } = this.#options;
    const { id } = await resources.get(ctx, group, groupId);
    const sql = `select a.id as user_id, a.username from group_member m join account a on a.id = m.account_id
      where m.group_id = $1 order by m.created_at, a.id`;
    return database.query<GroupMember>(sql, [id]);
  }

  /** Puts a user into a group; who is in it already stays. */
  add(ctx: Ctx, groupId: string, userId: string): Promise<void> {
    return this.#change(ctx, groupId, userId, "set", async (tx, id) => {
      const [row] = await tx.query<{ count: number }>(
        "select count(*)::int as count from group_member where group_id = $1 and account_id <> $2",
        [id, userId],
      );
      if ((row?.count ?? 0) >= maxMembers) {
        throw new Fault("exhausted", `a group has at most ${String(maxMembers)} members`, {
          reason: "GROUP_FULL",
        });
      }
      const sql =
        "insert into group_member (group_id, account_id) values ($1, $2) on conflict do nothing returning 1";
      return (await tx.query(sql, [id, userId])).length > 0;
    });
  }

  /** Takes a user out of a group. */
  remove(ctx: Ctx, groupId: string, userId: string): Promise<void> {
    return this.#change(ctx, groupId, userId, "delete", async (tx, id) => {
      const sql = "delete from group_member where group_id = $1 and account_id = $2 returning 1";
      if ((await tx.query(sql, [id, userId])).length > 0) return true;
      throw userNotFound(userId);
    });
  }

  /** A change of its members is one of the group: it has an event, by which other replicas hear of it. */
  async #change(
    ctx: Ctx,
    groupId: string,
    userId: string,
    act: "set" | "delete",
    change: (tx: Tx, id: string) => Promise<boolean>,
  ): Promise<void> {
    const { database, resources, tokens } = this.#options;
    const { id } = await resources.get(ctx, group, groupId);
    if (userId === ctx.principal.id) throw ownAccount();
    await database.transaction(async (tx) => {
      const before = await lockResource(tx, id);
      if (!before) throw notFound(group, groupId);
      const [user] = await tx.query<GroupMember>(
        "select id as user_id, username from account where id = $1 for key share",
        [userId],
      );
      if (!user) throw userNotFound(userId);
      if (!(await change(tx, id))) return;
      await changeResource(tx, group, before, {}, ctx.log);
      postAudit(tx, ctx, {
        action: `group.members.${act}`,
        resource: group.kind,
        resource_id: id,
        success: true,
        [act === "set" ? "after" : "before"]: { ...user },
      });
    });
    tokens.forget();
  }
}

/** What keeps administrators from reaching further than they may, and from locking everybody out. */
import type { Ctx } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import type { AnyDefinition, Resource } from "../resources/definition.ts";
import { group, type GroupSpec } from "../resources/group/group.resource.ts";
import { project, type ProjectSpec } from "../resources/project/project.resource.ts";
import { user, type UserSpec } from "../resources/user/user.resource.ts";
import type { Queryable } from "../store/database.ts";
import { isCloudAdmin, rootProject } from "./authorisation.ts";
import { checkQuotaNames } from "./quota.ts";

/**
 * Checks a change of a project, user or group before it is made; other kinds pass.
 * @param before undefined: it is created
 * @param next undefined: it is deleted
 */
export async function guardDirectory(
  on: Queryable,
  ctx: Ctx,
  kind: AnyDefinition,
  before: Resource | undefined,
  next: Readonly<Record<string, unknown>> | undefined,
): Promise<void> {
  if (kind.kind === project.kind) guardProject(before, next as ProjectSpec | undefined);
  if (kind.kind === group.kind && before) await guardGroup(on, ctx, before, next as GroupSpec | undefined);
  if (kind.kind !== user.kind) return;
  const spec = next as UserSpec | undefined;
  const plan = (before?.desired as UserSpec | undefined)?.plan ?? "standard";
  if (spec && spec.plan !== plan && !isCloudAdmin(ctx.principal)) {
    throw new Fault("denied", "the plan is chosen by the cloud's administrators", { reason: "PLAN_DENIED" });
  }
  if (!before) return;
  if (before.id === ctx.principal.id && (!spec || spec.disabled)) {
    throw ownAccount();
  }
  await requireReach(on, ctx, before.id);
}

function guardProject(before: Resource | undefined, next: ProjectSpec | undefined): void {
  if (next) checkQuotaNames(next.quota, (before?.desired as ProjectSpec | undefined)?.quota);
  if (before?.id !== rootProject || (next && !next.disabled)) return;
  throw new Fault("conflict", "the root project is the cloud itself", { reason: "ROOT_PROJECT" });
}

/** What a group may do is not for its own members to say: they could lock everybody out. */
async function guardGroup(
  on: Queryable,
  { principal }: Ctx,
  before: Resource,
  next: GroupSpec | undefined,
): Promise<void> {
  if (next?.role === (before.desired as GroupSpec).role) return;
  const sql = "select from group_member where group_id = $1 and account_id = $2";
  if ((await on.query(sql, [before.id, principal.id])).length > 0) throw ownAccount();
}

/** Nobody changes what they are themselves, or takes themselves out. */
export const ownAccount = () =>
  new Fault("conflict", "nobody changes their own rights: ask another administrator", {
    reason: "OWN_ACCOUNT",
  });

/** An administrator of one project has no power over those who are something elsewhere: it would become theirs. */
export async function requireReach(on: Queryable, { principal }: Ctx, userId: string): Promise<void> {
  if (isCloudAdmin(principal)) return;
  const sql = "select from project_role where account_id = $1 and project <> $2 limit 1";
  const beyond = await on.query(sql, [userId, principal.project]);
  if (beyond.length === 0) return;
  throw new Fault("denied", "this user has roles in other projects as well", { reason: "BEYOND_PROJECT" });
}

/**
 * What a project may have. It is counted where it is checked, in the transaction of the change and one
 * such transaction of a project at a time, so that there is no counter that could drift. Projects without
 * a limit that a change could touch pay one read by key.
 */
import type { Ctx } from "#kernel/ctx.ts";
import { Fault, type Json } from "#kernel/fault.ts";
import type { AnyDefinition } from "../resources/definition.ts";
import type { ProjectSpec } from "../resources/project/project.resource.ts";
import { kinds } from "../resources/kinds.ts";
import type { Queryable, Tx } from "../store/database.ts";
import { requireProject } from "./authorisation.ts";
import { invalidField } from "./validation.ts";

type Spec = Readonly<Record<string, unknown>>;
type Amounts = Readonly<Record<string, number>>;
type Limits = ProjectSpec["quota"];

/** What one resource of the kind counts, by the quota's name. */
export function amountsOf(kind: AnyDefinition, spec: Spec | undefined): Amounts {
  if (!spec) return {};
  return Object.fromEntries(
    Object.entries(kind.quota ?? {}).map(([name, field]) => [
      name,
      field === 1 ? 1 : Number(spec[field] ?? 0),
    ]),
  );
}

/** Throws `invalid` when a limit is set on what nothing counts: it would never hold. */
export function checkQuotaNames(next: Amounts, before: Amounts = {}): void {
  const known = new Set(kinds.flatMap(({ quota = {} }) => Object.keys(quota)));
  const unknown = Object.keys(next).find((name) => !known.has(name) && next[name] !== before[name]);
  if (unknown === undefined) return;
  throw invalidField(`spec.quota.${unknown}`, "is no quota", { known: [...known] });
}

/** What a change of this kind may come up against. */
export async function findLimits(tx: Tx, project: string, { quota }: AnyDefinition): Promise<Limits> {
  return quota ? limitsOf(tx, project) : {};
}

/**
 * Throws `exhausted` QUOTA_EXCEEDED when the project may not have so much more; else others wait for this change.
 * @param known the limits, for whoever has looked them up along with something else
 */
export async function checkQuota(
  tx: Tx,
  project: string,
  kind: AnyDefinition,
  before: Spec | undefined,
  next: Spec,
  known?: Limits,
): Promise<void> {
  const [had, wants] = [amountsOf(kind, before), amountsOf(kind, next)];
  const limits = known ?? (await findLimits(tx, project, kind));
  const more = Object.keys(wants).filter(
    (name) => limits[name] !== undefined && (wants[name] ?? 0) > (had[name] ?? 0),
  );
  if (more.length === 0) return;
  await tx.query(
    "select pg_advisory_xact_lock(hashtextextended('quota ' || $1, 0))",
    [project],
    "quota_lock",
  );
  const used = await usageOf(tx, project);
  for (const name of more) {
    const limit = limits[name] ?? 0;
    const requested = (wants[name] ?? 0) - (had[name] ?? 0);
    if ((used[name] ?? 0) + requested <= limit) continue;
    const detail: Json = { quota: name, limit, used: used[name] ?? 0, requested };
    throw new Fault("exhausted", `the project's quota of ${name.replaceAll("_", " ")} is used up`, {
      reason: "QUOTA_EXCEEDED",
      detail,
    });
  }
}

export interface QuotaLine {
  readonly name: string;
  readonly used: number;
  readonly limit: number | null;
}

/** What projects have and may have. */
export class Quotas {
  readonly #on: Queryable;

  constructor(on: Queryable) {
    this.#on = on;
  }

  /** Everything that may be limited, with what the project has of it. */
  async list(ctx: Ctx, project: string): Promise<readonly QuotaLine[]> {
    requireProject(ctx, project);
    const [limits, used] = [await limitsOf(this.#on, project), await usageOf(this.#on, project)];
    return Object.entries(used).map(([name, amount]) => ({
      name,
      used: amount,
      limit: limits[name] ?? null,
    }));
  }
}

async function limitsOf(on: Queryable, project: string): Promise<Limits> {
  const [row] = await on.query<{ quota: ProjectSpec["quota"] | null }>(
    "select desired -> 'quota' as quota from resource where id = $1 and kind = 'project'",
    [project],
    "quota_limits",
  );
  return row?.quota ?? {};
}

/** What is being deleted does not count any more. */
async function usageOf(on: Queryable, project: string): Promise<Amounts> {
  const used: Record<string, number> = {};
  for (const { kind, quota } of kinds) {
    if (!quota) continue;
    const sums = Object.entries(quota).map(([name, field]) =>
      field === 1
        ? `count(*)::bigint as "${name}"`
        : `coalesce(sum((desired ->> '${field}')::numeric), 0)::bigint as "${name}"`,
    );
    const [row] = await on.query<Amounts>(
      `select ${sums.join(", ")} from resource where kind = $1 and project = $2 and deleting_at is null`,
      [kind, project],
      `quota_usage_${kind}`,
    );
    for (const [name, amount] of Object.entries(row ?? {})) used[name] = (used[name] ?? 0) + amount;
  }
  return used;
}

/** Answers what a migration would be, without beginning one. */
import type { Ctx } from "#kernel/ctx.ts";
import { keepDisksSeconds } from "../agents/port.ts";
import type { Incarnation } from "../engine/controller.ts";
import type { Fleet } from "../engine/fleet.ts";
import { toResource, type ResourceRow, resourceColumns } from "../engine/rows.ts";
import type { Resource } from "../resources/definition.ts";
import { constraintsOf } from "../resources/instance/constraints.ts";
import type { Instance } from "../resources/instance/instance.resource.ts";
import {
  findBlockers,
  guestModelOf,
  moveRequest,
  moveTypeOf,
  predictMove,
  type Blocker,
} from "../resources/migration/migration.plan.ts";
import {
  migration,
  type MigrationReceipt,
  type MigrationSpec,
} from "../resources/migration/migration.resource.ts";
import type { Explanation } from "../scheduler/explain.ts";
import type { Queryable } from "../store/database.ts";
import { checkSite, resolveReferences } from "./admission.ts";

export interface MigrationPlan {
  readonly possible: boolean;
  readonly type: MigrationSpec["type"];
  /** Where it would go. */
  readonly target: { readonly host_id: string; readonly provider: string; readonly region: string } | null;
  readonly predicted: ReturnType<typeof predictMove>;
  readonly blockers: readonly Blocker[];
}

interface Known {
  readonly image: ResourceRow | null;
  readonly open: string | null;
  readonly last: MigrationReceipt | null;
  readonly disk_bytes: number | null;
  /** The most that its machine may have written since it started, in the units in which that is remembered. */
  readonly written_bytes: number | null;
  /** Where its disks were kept when it came to its host, and when that was. */
  readonly kept: { readonly host_id: string; readonly ended_at: string } | null;
  /** What its own host says of its machine. */
  readonly owner: Incarnation["observed"] | null;
  readonly elsewhere: readonly string[] | null;
}

const nothingKnown: Known = {
  ...{ image: null, open: null, last: null },
  ...{ disk_bytes: null, written_bytes: null, kept: null, owner: null, elsewhere: null },
};

/** A write of any size makes this much of a disk one that has to be copied. */
const rememberedUnitBytes = 65_536;

export class MigrationPlanner {
  readonly #database: Queryable;
  readonly #fleet: Fleet;

  constructor({ database, fleet }: { readonly database: Queryable; readonly fleet: Fleet }) {
    this.#database = database;
    this.#fleet = fleet;
  }

  /** @param resource the instance, as its owner may see it */
  async plan(ctx: Ctx, resource: Instance, spec: MigrationSpec): Promise<MigrationPlan> {
    const { project } = ctx.principal;
    await checkSite(this.#database, { provider: spec.provider, region: spec.region });
    const referred = await resolveReferences(this.#database, project, migration, {
      ...spec,
      instance: resource.id,
    });
    const refs = Object.fromEntries(Object.entries(referred).map(([name, { id }]) => [name, id]));
    const known = await this.#know(resource);
    const { image, open, elsewhere } = known;
    const source = (await this.#fleet.hosts()).find(({ id }) => id === resource.hostId);
    const type = moveTypeOf(resource, spec);
    const blockers = findBlockers(resource, source, open ?? undefined, type, known.owner?.["move_blocker"]);
    const { cpus, memory_bytes, disk_bytes: size } = resource.desired;
    const predictTo = (hostId?: string) =>
      predictMove(type, {
        memoryBytes: memory_bytes,
        diskBytes: known.disk_bytes ?? size,
        changedBytes: changedSince(known, hostId, ctx.now()),
        bandwidthLimit: spec.bandwidth_limit,
        last: known.last ?? undefined,
      });
    const nowhere = { possible: false, type, target: null, predicted: predictTo(), blockers };
    if (!source) return nowhere;

    const references: Record<string, Resource> = image ? { image: toResource(image) } : {};
    const incarnations = (elsewhere ?? []).map((hostId) => ({ hostId }));
    const amounts = { cpus, memoryBytes: memory_bytes, diskBytes: size };
    const owner = known.owner ? { observed: known.owner } : undefined;
    const from = { source, model: guestModelOf(source, owner) };
    const asked = moveRequest({ references, incarnations }, { desired: spec, refs }, type, from, amounts);
    const request = { ...constraintsOf(resource), ...asked };
    const choice = await this.#fleet.choose({ ...request, seed: resource.id });
    if ("unplaceable" in choice) {
      blockers.push(...toBlockers(choice.unplaceable as Explanation));
      return nowhere;
    }
    const [best] = choice.hosts;
    const predicted = predictTo(best?.id);
    const target = best ? { host_id: best.id, provider: best.provider, region: best.region } : null;
    return { possible: target !== null && blockers.length === 0, type, target, predicted, blockers };
  }

  async #know({ id, refs, hostId }: Instance): Promise<Known> {
    const [known] = await this.#database.query<Known>(
      `select (select to_jsonb(i) from (select ${resourceColumns} from resource where id = $2) i) as image,
         (select id from resource where request_of = $1 limit 1) as open,
         (select observed -> 'receipt' from resource
          where kind = 'migration' and phase = 'complete' and refs @> jsonb_build_object('instance', $1::text)
          order by created_at desc limit 1) as last,
         (select (sample ->> 'disk_allocated_bytes')::float8 from machine_sample where machine_id = $1
          order by at desc limit 1) as disk_bytes,
         (select (sample ->> 'disk_write_bytes')::float8 + $4::float8 * (sample ->> 'disk_write_operations')::float8
          from machine_sample where machine_id = $1 order by at desc limit 1) as written_bytes,
         (select jsonb_build_object('host_id', m.observed -> 'source' ->> 'host_id', 'ended_at', m.observed ->> 'ended_at')
          from incarnation i join resource m on m.kind = 'migration' and m.id = i.observed ->> 'disk_baseline'
          where i.resource_id = $1 and i.host_id = $3) as kept,
         (select observed from incarnation where resource_id = $1 and host_id = $3) as owner,
         (select jsonb_agg(host_id) from incarnation where resource_id = $1) as elsewhere`,
      [id, refs["image"] ?? "", hostId ?? "", rememberedUnitBytes],
      "migration_plan",
    );
    return known ?? nothingKnown;
  }
}

/** What has to be copied of the disks to a host that has kept them; undefined when it has not. */
function changedSince(
  { kept, written_bytes }: Known,
  hostId: string | undefined,
  now: number,
): number | undefined {
  if (kept === null || kept.host_id !== hostId) return undefined;
  const isOver = now - Date.parse(kept.ended_at) > keepDisksSeconds * 1000;
  return isOver ? undefined : (written_bytes ?? undefined);
}

/** Every reason for which hosts were passed over, each with the host that came nearest. */
function toBlockers({ rejected, hosts }: Explanation): Blocker[] {
  if (hosts === 0) return [{ code: "hosts", message: "there are no hosts" }];
  return rejected.map(({ code, count, verdict, nearest }) => ({
    code,
    message: `${String(count)} ${count === 1 ? "host" : "hosts"} ${verdict} (${nearest.reason})`,
  }));
}

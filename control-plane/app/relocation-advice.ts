/** Which instances would be better off on another host: told to whoever asks, and by `Relocations` carried out. */
import type { CachedFleet } from "../engine/fleet.ts";
import { resourceColumns, toResource, type ResourceRow } from "../engine/rows.ts";
import type { Image } from "../resources/image/image.resource.ts";
import { placementRequest } from "../resources/instance/instance.place.ts";
import type { Instance } from "../resources/instance/instance.resource.ts";
import { planRelocation, type Move } from "../scheduler/relocate.ts";
import type { Queryable } from "../store/database.ts";

export interface Relocation extends Move {
  readonly instance: Pick<Instance, "id" | "name" | "project">;
  readonly from: string;
  readonly to: string;
  /** It is carried out without being asked for. */
  readonly automatic: boolean;
}

interface Row extends ResourceRow {
  readonly image: ResourceRow | null;
  readonly since: Date;
}

/** Each takes a choice; who has more asks by project. */
const advised = 500;
const select = `select ${resourceColumns},
   (select to_jsonb(i) from resource i where i.id = resource.refs ->> 'image') as image,
   greatest(created_at, (select max(m.updated_at) from resource m where m.kind = 'migration'
     and m.refs @> jsonb_build_object('instance', resource.id))) as since
 from resource where kind = 'instance' and phase = 'running' and desired ->> 'adopted' is null`;

export class RelocationAdvice {
  readonly #database: Queryable;
  readonly #fleet: Pick<CachedFleet, "choose" | "find">;

  constructor(deps: { readonly database: Queryable; readonly fleet: Pick<CachedFleet, "choose" | "find"> }) {
    this.#database = deps.database;
    this.#fleet = deps.fleet;
  }

  /** Moves that would save the project money or distance; the greatest saving first. */
  async ofProject(project: string, now: number): Promise<readonly Relocation[]> {
    const rows = await this.#database.query<Row>(
      `${select} and project = $1 order by created_at limit $2`,
      [project, advised],
      "advice_instances",
    );
    return this.#advise(rows, now);
  }

  /**
   * The same of the instances, whoever's, whose owners let them be moved: of `limit` of them, in the order of their ids.
   * @returns `last`, the id to go on after; undefined: that were all
   */
  async ofAutomatic(after: string, limit: number, now: number) {
    const rows = await this.#database.query<Row>(
      `${select} and desired ->> 'relocation' = 'automatic' and id > $1 order by id limit $2`,
      [after, limit],
      "advice_automatic",
    );
    const last = rows.length < limit ? undefined : rows.at(-1)?.id;
    return { looked: rows.length, last, moves: await this.#advise(rows, now) };
  }

  async #advise(rows: readonly Row[], now: number): Promise<readonly Relocation[]> {
    const found: Relocation[] = [];
    for (const row of rows) {
      const instance = toResource(row) as Instance;
      const from = await this.#fleet.find(instance.hostId ?? "");
      if (!from) continue;
      const image = row.image ? (toResource(row.image) as Image) : undefined;
      const request = { ...placementRequest(instance, image), capability: "migration" };
      const choice = await this.#fleet.choose({
        ...request,
        exclude: new Set([from.id]),
        seed: instance.id,
      });
      if ("unplaceable" in choice) continue;
      const [to] = choice.hosts;
      const stayedMs = now - new Date(row.since).getTime();
      const bytes = request.memoryBytes + request.diskBytes;
      const move = to && planRelocation({ host: from, request, bytes, stayedMs }, to);
      const automatic = instance.desired.relocation === "automatic";
      if (move) found.push({ instance, from: from.id, to: to.id, automatic, ...move });
    }
    return found.sort((a, b) => (b.savesPerHour ?? 0) - (a.savesPerHour ?? 0));
  }
}

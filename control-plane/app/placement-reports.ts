/** Tells where an instance was placed and why, or what keeps it from being placed. */
import type { Json } from "#kernel/fault.ts";
import type { Fleet } from "../engine/fleet.ts";
import { resourceColumns, toResource, type ResourceRow } from "../engine/rows.ts";
import type { Image } from "../resources/image/image.resource.ts";
import { placementRequest } from "../resources/instance/instance.place.ts";
import type { Instance } from "../resources/instance/instance.resource.ts";
import type { Explanation } from "../scheduler/explain.ts";
import { narrate, type Narrative } from "../scheduler/narrate.ts";
import type { Queryable } from "../store/database.ts";

export interface PlacementReport extends Partial<Narrative> {
  readonly id: string;
  readonly phase: string;
  readonly host_id: string | null;
  readonly host?: string;
  readonly provider?: string;
  readonly region?: string;
  readonly zone?: string;
  /** The scheduler's own record. */
  readonly explanation?: Json;
}

export class PlacementReports {
  readonly #database: Queryable;
  readonly #fleet: Pick<Fleet, "choose">;

  constructor(deps: { readonly database: Queryable; readonly fleet: Pick<Fleet, "choose"> }) {
    this.#database = deps.database;
    this.#fleet = deps.fleet;
  }

  /**
   * For one that has a host, from the record of the choice; for one that waits for a host, as it would be chosen now.
   * Reserves nothing.
   */
  async report(instance: Instance): Promise<PlacementReport> {
    const { id, phase, placement, desired, problem } = instance;
    const record = placement?.explanation ?? (desired.adopted ? undefined : await this.#chooseNow(instance));
    const at = { id, phase, ...(placement ?? { host_id: null }) };
    if (!isExplanation(record)) return at;
    const names = await this.#namesOf(record, placement?.host_id);
    const nameOf = (hostId: string) => names.get(hostId) ?? hostId;
    const host = placement && { host: nameOf(placement.host_id) };
    const story = narrate(record, placement?.host_id, nameOf);
    const held = !placement && record.eligible > 0 && problem !== undefined;
    const verdict = held ? `It waits for something else: ${problem.message}.` : story.verdict;
    return { ...at, ...host, explanation: record, ...story, verdict };
  }

  async #chooseNow(instance: Instance): Promise<Json> {
    const [row] = await this.#database.query<ResourceRow>(
      `select ${resourceColumns} from resource where id = $1`,
      [instance.refs["image"] ?? ""],
      "placement_image",
    );
    const image = row && (toResource(row) as Image);
    const choice = await this.#fleet.choose({ ...placementRequest(instance, image), seed: instance.id });
    return "unplaceable" in choice ? choice.unplaceable : choice.explanation;
  }

  async #namesOf(
    { best, rejected }: Explanation,
    hostId: string | undefined,
  ): Promise<ReadonlyMap<string, string>> {
    const named = [...best, ...rejected.map(({ nearest }) => nearest)].map(({ host_id }) => host_id);
    const rows = await this.#database.query<{ id: string; name: string }>(
      "select id, name from resource where kind = 'host' and id = any($1)",
      [[...new Set(hostId === undefined ? named : [...named, hostId])]],
      "placement_hosts",
    );
    return new Map(rows.map(({ id, name }) => [id, name]));
  }
}

/** Adoption leaves a record of another form. */
function isExplanation(record: unknown): record is Explanation {
  return typeof record === "object" && record !== null && "rejected" in record && "best" in record;
}

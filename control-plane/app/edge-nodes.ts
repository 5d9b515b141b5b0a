/** Hosts as those see them who run workloads near to people: where they are, what they have, what runs there. */
import type { HostSpec, HostStatus } from "../resources/host/host.resource.ts";
import type { Queryable } from "../store/database.ts";

export interface EdgeNode {
  readonly id: string;
  readonly name: string;
  readonly location: HostSpec["location"];
  readonly online: boolean;
  readonly capacity: HostStatus["capacity"];
  /** What containers may be given. */
  readonly gpus: number;
  readonly workloads: number;
  readonly lastHeartbeat: Date | undefined;
}

interface NodeRow {
  readonly id: string;
  readonly name: string;
  readonly desired: HostSpec;
  readonly observed: HostStatus;
  readonly workloads: number;
  readonly last_seen: Date | null;
}

export class EdgeNodes {
  readonly #database: Queryable;

  constructor(database: Queryable) {
    this.#database = database;
  }

  /** All hosts that have ever been heard of, in the order of their names. */
  async list(): Promise<readonly EdgeNode[]> {
    const rows = await this.#database.query<NodeRow>(
      `select r.id, r.name, r.desired, r.observed, s.last_seen,
         (select count(*) from resource w where w.host_id = r.id and w.kind = 'workload') as workloads
       from resource r left join host_session s on s.host_id = r.id
       where r.kind = 'host' and r.deleting_at is null and r.observed is not null order by r.name, r.id`,
      [],
      "edge_nodes",
    );
    return rows.map(({ id, name, desired, observed, workloads, last_seen }) => ({
      ...{ id, name, workloads },
      location: desired.location,
      online: observed.connected,
      capacity: observed.capacity,
      gpus: observed.containers?.gpus?.length ?? 0,
      lastHeartbeat: last_seen ?? undefined,
    }));
  }
}

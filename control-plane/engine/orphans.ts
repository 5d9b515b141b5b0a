/**
 * Machines on a host that it was not given. One whose instance was erased is removed, and so is a copy of an instance
 * that another host has; one that this cloud never heard of is left alone and shown, because the likelier reason is a
 * database that was put back from a backup.
 */
import type { Logger } from "#kernel/log.ts";
import { deadline } from "#kernel/retry.ts";
import type { AgentPort } from "../agents/port.ts";
import type { Database } from "../store/database.ts";

const removeWaitMs = 5_000;
/** Above every epoch that a lease can have reached. */
const afterAllEpochs = 1n << 62n;

export class Orphans {
  readonly #database: Database;
  readonly #agents: AgentPort;
  readonly #log: Logger;
  readonly #removing = new Set<string>();

  constructor(database: Database, agents: AgentPort, log: Logger) {
    this.#database = database;
    this.#agents = agents;
    this.#log = log;
  }

  /** Begins to remove what is left of instances that are elsewhere or erased; gives the ids that nobody gave it. */
  async examine(hostId: string, reported: readonly string[]): Promise<string[]> {
    if (reported.length === 0) return [];
    const rows = await this.#database.query<{ id: string; surplus: boolean; elsewhere: boolean }>(
      `select x.id, case when r.id is null then t.id is not null else exists (
           select 1 from incarnation o where o.resource_id = r.id and o.host_id = r.host_id
             and o.state in ('running', 'stopped')) end as surplus,
         r.id is not null as elsewhere
       from unnest($1::text[]) as x(id) left join resource r on r.id = x.id left join tombstone t on t.id = x.id
       where r.id is null or (r.host_id is distinct from $2
         and not exists (select 1 from incarnation i where i.resource_id = x.id and i.host_id = $2)
         and not exists (select 1 from reservation v where v.resource_id = x.id and v.host_id = $2))
       order by x.id`,
      [reported, hostId],
    );
    for (const { id, surplus } of rows) if (surplus) this.#remove(hostId, id);
    return rows.filter(({ surplus, elsewhere }) => elsewhere || !surplus).map(({ id }) => id);
  }

  /** What fails is found again in the next full report. */
  #remove(hostId: string, id: string): void {
    const key = `${hostId}/${id}`;
    if (this.#removing.has(key)) return;
    this.#removing.add(key);
    const limit = deadline(removeWaitMs + 10_000, "removing an orphan");
    const fence = { epoch: afterAllEpochs, generation: 0n };
    this.#agents
      .removeMachine(hostId, { id, fence, waitMs: removeWaitMs }, limit)
      .then(() => this.#log.info("orphan.removed", { hostId, machine: id }))
      .catch((error: unknown) => this.#log.warn("orphan.not_removed", { hostId, machine: id, error }))
      .finally(() => {
        this.#removing.delete(key);
        limit[Symbol.dispose]();
      });
  }
}

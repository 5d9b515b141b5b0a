/**
 * Machines on a host that it was not given. One whose instance was erased is removed, and so is a copy of an instance
 * that another host has; one that this cloud never heard of is left alone and shown, because the likelier reason is a
 * database that was put back from a backup.
 */
import type { Logger } from "#kernel/log.ts";
import { deadline } from "#kernel/retry.ts";
import { keepDisksSeconds, type AgentPort } from "../agents/port.ts";
import type { Database } from "../store/database.ts";
import { firstEpochOf } from "./work.ts";

const removeWaitMs = 5_000;
/** Above every epoch that a lease can have reached: for what is erased, and so is never wanted again. */
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
    for (const { id, surplus, elsewhere } of rows) if (surplus) this.#remove(hostId, id, elsewhere);
    return rows.filter(({ surplus, elsewhere }) => elsewhere || !surplus).map(({ id }) => id);
  }

  /** What fails is found again in the next full report. */
  #remove(hostId: string, id: string, elsewhere: boolean): void {
    const key = `${hostId}/${id}`;
    if (this.#removing.has(key)) return;
    this.#removing.add(key);
    const limit = deadline(removeWaitMs + 10_000, "removing an orphan");
    const remove = async () => {
      const epoch = elsewhere ? await this.#takeEpoch(hostId, id) : afterAllEpochs;
      if (epoch === undefined) return;
      const fence = { epoch, generation: 0n };
      // A report that was under way while a copy was removed makes an orphan of it, and its disks are kept for a move back.
      const kept = elsewhere ? { keepDisksSeconds } : {};
      await this.#agents.removeMachine(hostId, { id, fence, waitMs: removeWaitMs, ...kept }, limit);
      this.#log.info("orphan.removed", { hostId, machine: id });
    };
    remove()
      .catch((error: unknown) => this.#log.warn("orphan.not_removed", { hostId, machine: id, error }))
      .finally(() => {
        this.#removing.delete(key);
        limit[Symbol.dispose]();
      });
  }

  /**
   * The right to remove a copy of an instance that lives on: whoever works on it loses his claim, and the next one's
   * commands are newer, so a removal that comes late cannot take what the host is given after this. Undefined when
   * it has been given it already.
   */
  #takeEpoch(hostId: string, id: string): Promise<bigint | undefined> {
    return this.#database.transaction(async (tx) => {
      // Whoever gives it to a host holds this row: what is read below is what he left.
      await tx.query("select 1 from work where key = $1 for update", [id], "work_lock_one");
      const [row] = await tx.query<{ epoch: number }>(
        `update work set lease_epoch = lease_epoch + 1, lease_until = null, lease_holder = null,
           run_at = case when lease_until is null then run_at else now() end
         where key = $1
           and exists (select 1 from resource r where r.id = $1 and r.host_id is distinct from $2)
           and not exists (select 1 from incarnation i where i.resource_id = $1 and i.host_id = $2)
           and not exists (select 1 from reservation v where v.resource_id = $1 and v.host_id = $2)
         returning lease_epoch as epoch`,
        [id, hostId],
        "orphan_epoch",
      );
      return row && firstEpochOf(row);
    });
  }
}

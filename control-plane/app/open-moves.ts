import type { Queryable } from "../store/database.ts";

/** Which hosts have to do with each other at present. */
export class OpenMoves {
  readonly #database: Queryable;

  constructor(database: Queryable) {
    this.#database = database;
  }

  /** Whether a migration from the one host to the other is under way. */
  async between(sourceHostId: string, targetHostId: string): Promise<boolean> {
    const rows = await this.#database.query(
      `select 1 from resource where request_of is not null and kind = 'migration'
         and observed #>> '{source,host_id}' = $1 and observed #>> '{target,host_id}' = $2 limit 1`,
      [sourceHostId, targetHostId],
      "moves_between",
    );
    return rows.length > 0;
  }
}

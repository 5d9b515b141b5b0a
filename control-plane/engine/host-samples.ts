/** How busy hosts are, written one statement for many: with thousands of them, one each would be most of the work. */
import { sleep } from "#kernel/retry.ts";
import type { Queryable } from "../store/database.ts";

export interface HostSample {
  readonly hostId: string;
  readonly at: string;
  readonly sample: Readonly<Record<string, number>>;
}

/** Samples that come so close together are one statement, as the heartbeats are that they come with. */
const gatherMs = 10;

export class HostSamples {
  readonly #database: Queryable;
  #gathered: HostSample[] = [];
  #writing: Promise<void> | undefined;

  constructor(database: Queryable) {
    this.#database = database;
  }

  /** Resolves once it is stored. Those of hosts that are gone are dropped, and one that is there stays. */
  store(sample: HostSample): Promise<void> {
    this.#gathered.push(sample);
    return (this.#writing ??= this.#write());
  }

  async #write(): Promise<void> {
    await sleep(gatherMs);
    const samples = this.#gathered;
    this.#gathered = [];
    this.#writing = undefined;
    await this.#database.query(
      `insert into host_sample (host_id, at, sample)
       select x."hostId", x.at, x.sample from jsonb_to_recordset($1) as x("hostId" text, at timestamptz, sample jsonb)
       where exists (select 1 from resource r where r.id = x."hostId")
       on conflict do nothing`,
      [JSON.stringify(samples)],
      "host_sample_insert",
    );
  }
}

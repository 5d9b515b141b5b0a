/** What the record says of many instances and migrations at once: one look for all who wait, not one each. */
import type { Database } from "#cp/store/database.ts";
import { isFault } from "#kernel/fault.ts";
import { sleep } from "#kernel/retry.ts";

/** As far as a move's watcher cares. */
export interface Entry {
  readonly id: string;
  readonly phase: string;
  readonly reason: string | null;
  readonly source: string | null;
  readonly target: string | null;
  readonly committed: boolean;
  readonly ended: boolean;
}

interface Waiter {
  readonly look: (entry: Entry) => boolean;
  readonly found: (entry: Entry) => void;
}

const everyMs = 8;

export class Register {
  readonly #database: Database;
  readonly #waiters = new Map<string, Set<Waiter>>();
  readonly #stop = new AbortController();
  readonly #looking: Promise<void>;
  /** By id, as it was when somebody waited for it last. */
  readonly latest = new Map<string, Entry>();

  constructor(database: Database) {
    this.#database = database;
    this.#looking = this.#look();
  }

  /** The entry once it is so; fails, and says how it is, when that takes too long. */
  async until(id: string, look: Waiter["look"], limitMs: number): Promise<Entry> {
    const waiters = this.#waiters.get(id) ?? new Set();
    this.#waiters.set(id, waiters);
    return new Promise((resolve, reject) => {
      const leave = () => {
        clearTimeout(timer);
        waiters.delete(waiter);
        if (waiters.size === 0) this.#waiters.delete(id);
      };
      const timer = setTimeout(() => {
        leave();
        void this.#describe(id).then((state) => reject(new Error(`${id} is not ${String(look)}: ${state}`)));
      }, limitMs);
      const waiter = {
        look,
        found(entry: Entry) {
          leave();
          resolve(entry);
        },
      };
      waiters.add(waiter);
    });
  }

  /** What is to be known of one that does not get on: the record, and the work that is to be done for it. */
  async #describe(id: string): Promise<string> {
    const work = await this.#database
      .query(
        `select w.key, w.host_id, w.run_at - now() as due, w.attempt, w.lease_until - now() as leased, w.last_error,
           (select jsonb_agg(o.name || ' ' || o.status || ' ' || coalesce(o.error ->> 'reason', '') || ', done: ' ||
              coalesce((select string_agg(s.name, ' ' order by s.position) from operation_step s
                        where s.operation_id = o.id and s.status = 'done'), ''))
            from operation o where o.resource_id = w.key and o.status in ('running', 'undoing')) as operations
         from work w where w.key in
           (select unnest(array[id, desired ->> 'instance']) from resource where id = $1)`,
        [id],
      )
      .catch((thrown: unknown) => String(thrown));
    return JSON.stringify({ ...this.latest.get(id), work });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#looking;
  }

  async #look(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      if (this.#waiters.size > 0) {
        await this.#lookOnce().catch((thrown: unknown) => {
          if (!isFault(thrown, "unavailable")) throw thrown; // its connection was dropped: it looks again
        });
      }
      await sleep(everyMs);
    }
  }

  async #lookOnce(): Promise<void> {
    const entries = await this.#database.query<Entry>(
      `select id, phase, observed -> 'error' ->> 'reason' as reason,
         observed -> 'source' ->> 'host_id' as source, observed -> 'target' ->> 'host_id' as target,
         observed ->> 'committed_at' is not null as committed, observed ->> 'ended_at' is not null as ended
       from resource where id = any($1)`,
      [[...this.#waiters.keys()]],
      "storm_register",
    );
    for (const entry of entries) {
      this.latest.set(entry.id, entry);
      for (const waiter of [...(this.#waiters.get(entry.id) ?? [])]) {
        if (waiter.look(entry)) waiter.found(entry);
      }
    }
  }
}

/**
 * Finds what fell through: keys that should be looked at and are not, leftovers, and rows past their
 * time. One replica at a time; every statement is safe to repeat.
 */
import type { Logger } from "#kernel/log.ts";
import { backoffMs } from "#kernel/retry.ts";
import type { Database } from "../store/database.ts";
import type { Presence } from "./presence.ts";
import { locks } from "../store/locks.ts";

export interface SweepOptions {
  readonly database: Database;
  readonly presence: Presence;
  readonly log: Logger;
  readonly everyMs: number;
  /** Kinds that have a controller. */
  readonly reconciledKinds: readonly string[];
  readonly onChange: () => void;
  /** What else there is to tidy up; each gives how much it found. */
  readonly chores?: Readonly<Record<string, () => Promise<number>>>;
}

/** Statements and what they are for; each takes little at a time. */
const statements: readonly { readonly name: string; readonly sql: string }[] = [
  {
    name: "work_missing",
    sql: `insert into work (key, kind, host_id, run_at) select r.id, r.kind, r.host_id, now() from resource r
      where r.kind = any($1) and not exists (select 1 from work w where w.key = r.id) limit 1000
      on conflict (key) do nothing returning 1`,
  },
  {
    name: "work_unsettled",
    sql: `update work w set run_at = now(), dirty_seq = dirty_seq + 1 from resource r
      where r.id = w.key and r.kind = any($1) and w.run_at is null and w.lease_until is null
        and w.settled_at < now() - interval '20 seconds'
        and (r.deleting_at is not null
          or exists (select 1 from operation o where o.resource_id = r.id and o.status in ('running', 'undoing'))
          or exists (select 1 from resource q where q.request_of = r.id)
          or (r.kind in ('instance', 'workload') and r.observed_generation < r.generation
              and not coalesce((r.problem ->> 'stuck')::boolean, false)))
      returning 1`,
  },
  {
    // Parked with a host that has left: somebody must still look after limits and cancellations.
    name: "work_stranded",
    sql: `update work w set host_id = null, run_at = least(w.run_at, now()) from resource r
      where r.id = w.key and r.kind = any($1) and w.host_id is not null and w.lease_until is null
        and (w.run_at is not null or exists (select 1 from resource q where q.request_of = r.id))
        and (w.host_id is distinct from r.host_id or exists (select 1 from resource q where q.request_of = r.id))
        and not exists (select 1 from resource h
          where h.id = w.host_id and coalesce((h.observed ->> 'connected')::boolean, false))
      returning 1`,
  },
  {
    // What is cut off for longer than its owner bears is given to another host, which takes no connection to its own.
    name: "workload_cut_off",
    sql: `update work w set host_id = null, run_at = now(), dirty_seq = dirty_seq + 1 from resource r
      join host_session s on s.host_id = r.host_id
      where r.id = w.key and r.kind = 'workload' and 'workload' = any($1) and w.host_id is not null
        and w.lease_until is null and s.replica_id is null
        and s.last_seen < now() - (r.desired ->> 'replace_after_seconds')::numeric * interval '1 second'
        and (r.desired ->> 'on_disconnect' = 'replace' or not exists (
          select 1 from incarnation i where i.resource_id = r.id and i.host_id = r.host_id))
      returning 1`,
  },
  {
    name: "work_all",
    sql: `update work set run_at = now(), dirty_seq = dirty_seq + 1 where key in (
        select key from work where run_at is null and kind = any($1) and settled_at < now() - interval '10 minutes'
        order by settled_at limit 500 for update skip locked) returning 1`,
  },
  {
    name: "reservation_leftover",
    sql: `delete from reservation v where v.created_at < now() - interval '1 minute' and $1::text[] is not null
        and not exists (select 1 from resource r where r.id = v.resource_id and r.host_id = v.host_id)
        and not exists (select 1 from work w where w.key = v.resource_id and (w.lease_until is not null or w.run_at is not null))
        and not exists (select 1 from operation o where o.resource_id = v.resource_id and o.status in ('running', 'undoing'))
      returning 1`,
  },
  { name: "idempotency_old", sql: retention("idempotency", "created_at", "24 hours") },
  { name: "host_change_old", sql: retention("host_change", "created_at", "10 minutes", 100_000) },
  {
    // No window is longer than a day.
    name: "rate_lease_old",
    sql: `delete from rate_lease where ctid in (select ctid from rate_lease
      where window_start < extract(epoch from now()) - 2 * 86400 and $1::text[] is not null limit 5000) returning 1`,
  },
  { name: "outbox_old", sql: retention("outbox", "created_at", "24 hours") },
  { name: "machine_sample_old", sql: retention("machine_sample", "at", "7 days") },
  { name: "host_sample_old", sql: retention("host_sample", "at", "7 days") },
  {
    name: "tombstone_last",
    sql: `update tombstone set last = null where last is not null and erased_at < now() - interval '1 hour'
      and $1::text[] is not null returning 1`,
  },
  { name: "tombstone_old", sql: retention("tombstone", "erased_at", "30 days") },
  { name: "oidc_login_old", sql: retention("oidc_login", "expires_at", "0 hours") },
  { name: "login_address_old", sql: retention("login_address", "at", "40 days") },
  { name: "refresh_token_old", sql: retention("refresh_token", "expires_at", "7 days") },
  { name: "operation_old", sql: retention("operation", "ended_at", "30 days") },
];

function retention(table: string, column: string, age: string, limit = 5000): string {
  return `delete from ${table} where ctid in (
    select ctid from ${table} where ${column} < now() - interval '${age}' and $1::text[] is not null limit ${String(limit)}) returning 1`;
}

export class Sweep implements AsyncDisposable {
  readonly #options: SweepOptions;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #stopped = false;

  constructor(options: SweepOptions) {
    this.#options = options;
  }

  start(): void {
    if (this.#stopped) return;
    const waitMs = backoffMs(0, { baseMs: this.#options.everyMs, capMs: this.#options.everyMs });
    this.#timer = setTimeout(() => {
      this.#running = this.run()
        .catch((error: unknown) => this.#options.log.warn("sweep.failed", { error }))
        .finally(() => this.start());
    }, waitMs);
  }

  /** One sweep; does nothing when another replica is at it. */
  async run(): Promise<void> {
    const { database, log, reconciledKinds, presence, onChange, chores = {} } = this.#options;
    const found: Record<string, number> = {};
    for (const { name, sql } of statements) {
      const count = await database.transaction(async (tx) => {
        const [lock] = await tx.query<{ mine: boolean }>("select pg_try_advisory_xact_lock($1) as mine", [
          locks.sweep,
        ]);
        return lock?.mine ? (await tx.query(sql, [reconciledKinds])).length : 0;
      });
      if (count > 0) found[name] = count;
    }
    for (const [name, tidy] of Object.entries(chores)) {
      const count = await tidy();
      if (count > 0) found[name] = count;
    }
    await presence.sweep();
    if (Object.keys(found).length === 0) return;
    log.info("sweep.found", found);
    onChange();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#running;
  }
}

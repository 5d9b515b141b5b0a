/**
 * The set of dirty keys. A key is a resource's id; a row says that somebody should look at it, never
 * what happened. `lease_epoch` grows with each claim and fences whatever the claimer writes or
 * commands: a holder that was too slow is refused wherever it acts. The row lives as long as the
 * resource, so the epoch never starts again.
 */
import type { Json } from "#kernel/fault.ts";
import type { Queryable, Tx } from "../store/database.ts";

/** A pass must be done within this: longer than the longest command to an agent. */
export const leaseMs = 30_000;

/** Of what goes before all that users ask for: until it is settled. */
export const urgentPriority = 1;

export interface Claim {
  readonly key: string;
  readonly kind: string;
  readonly epoch: number;
  readonly dirtySeq: number;
  /** 1 for the first try since something changed or progressed. */
  readonly attempt: number;
}

export interface Enqueue {
  readonly key: string;
  readonly kind: string;
  /** The host whose connection the work needs; undefined: any replica may do it. */
  readonly hostId?: string | undefined;
  /** User intent starts the attempts afresh; a report does not. */
  readonly fresh?: boolean;
}

/** Marks a key as dirty, to be looked at now. Takes the row's lock until the transaction ends. */
export async function enqueue(on: Queryable, entry: Enqueue): Promise<void> {
  await on.query(
    `insert into work (key, kind, host_id, run_at) values ($1, $2, $3, now())
     on conflict (key) do update set dirty_seq = work.dirty_seq + 1, run_at = least(work.run_at, now()),
       host_id = coalesce($3, work.host_id), attempt = case when $4 then 0 else work.attempt end`,
    [entry.key, entry.kind, entry.hostId ?? null, entry.fresh ?? false],
    "work_enqueue",
  );
}

export class WorkQueue {
  readonly #database: Queryable;
  /** The replica for which it claims. */
  readonly #holder: string;

  constructor(database: Queryable, holder: string) {
    this.#database = database;
    this.#holder = holder;
  }

  /**
   * Claims due keys that need no host, or one that is connected to the holder: on record, because to say which these are
   * would be a quarter of a megabyte for each claim when they are ten thousand.
   */
  claim(limit: number): Promise<Claim[]> {
    return this.#database.query<Claim>(
      `with due as (
         select key from work
         where run_at <= now() and (lease_until is null or lease_until < now()) and ${isWithin("$1")}
         order by priority desc, run_at limit $2 for update of work skip locked)
       update work w set lease_epoch = w.lease_epoch + 1, lease_holder = $1, attempt = w.attempt + 1,
         lease_until = now() + $3 * interval '1 millisecond'
       from due where w.key = due.key
       returning w.key, w.kind, w.lease_epoch as epoch, w.dirty_seq as "dirtySeq", w.attempt`,
      [this.#holder, limit, leaseMs],
      "work_claim",
    );
  }

  /**
   * Gives the key back. If it was dirtied meanwhile it is due at once, else after `restMs`, by the database's clock and
   * not the replica's, which may be an hour off; without it, it is settled. A lease that was lost is left alone. It does not wait for the disk: should the server crash
   * before it is there, the lease runs out and the key is looked at once more.
   */
  async settle(
    claim: Claim,
    outcome: {
      readonly restMs: number | undefined;
      readonly hostId: string | undefined;
      readonly progressed: boolean;
      readonly error: Json;
    },
  ): Promise<void> {
    await this.#database.query(
      `with lightly as (select set_config('synchronous_commit', 'off', true))
       update work set lease_until = null, lease_holder = null, host_id = $4, settled_at = now(),
         run_at = case when dirty_seq <> $3 then now()
                       when $5::float8 is null then null else now() + $5::float8 * interval '1 millisecond' end,
         attempt = case when $6 then 0 else attempt end, last_error = $7,
         priority = case when $5::float8 is null and dirty_seq = $3 then 0 else priority end
       from lightly where key = $1 and lease_epoch = $2`,
      [
        claim.key,
        claim.epoch,
        claim.dirtySeq,
        outcome.hostId ?? null,
        outcome.restMs ?? null,
        outcome.progressed,
        outcome.error === null ? null : JSON.stringify(outcome.error),
      ],
      "work_settle",
    );
  }

  /** Milliseconds until the earliest key that is not due yet; undefined when there is none. */
  async nextDueInMs(): Promise<number | undefined> {
    const [row] = await this.#database.query<{ ms: number | null }>(
      `select (extract(epoch from min(greatest(run_at, coalesce(lease_until, run_at))) - now()) * 1000)::float8 as ms
       from work where run_at is not null and ${isWithin("$1")}`,
      [this.#holder],
      "work_next",
    );
    return row?.ms ?? undefined;
  }
}

/** Condition on a row of `work`: it needs no host, or one that is connected to the replica. */
function isWithin(replica: string): string {
  return `(host_id is null or exists (
    select 1 from host_session s where s.host_id = work.host_id and s.replica_id = ${replica}))`;
}

/** Commands of one claim are ordered among themselves: an undo is newer than what it undoes (ADR 2). */
const epochsPerClaim = 1n << 16n;

/** The lowest epoch of a command under a claim: above all that were sent under the claims before it. */
export function firstEpochOf({ epoch }: Pick<Claim, "epoch">): bigint {
  return BigInt(epoch) * epochsPerClaim;
}

/** A host counts for itself: what it says beyond this is no epoch that a claim can have reached. */
const mostClaims = 2 ** 37;

/**
 * Gives a claim back whose commands a host refuses because it has accepted newer ones, though nobody else has claimed the
 * key: the record is older than the host's, as after a database was put back from a backup. The next claim's commands
 * are above what the host holds. False when the claim has been lost, which is the usual reason for such a refusal.
 */
export async function overtake(on: Queryable, claim: Claim, heldEpoch: bigint): Promise<boolean> {
  const held = Number(heldEpoch / epochsPerClaim);
  if (held < claim.epoch || held > mostClaims) return false;
  const rows = await on.query(
    `update work set lease_epoch = $3, lease_until = null, lease_holder = null, run_at = now()
     where key = $1 and lease_epoch = $2 returning 1`,
    [claim.key, claim.epoch, held],
    "work_overtake",
  );
  return rows.length > 0;
}

/** Begins a fenced transaction: it fails as `stale` LEASE_LOST unless the claim still holds, and keeps it until commit. */
export function assertClaim(tx: Tx, claim: Claim): void {
  tx.post("select assert_claim($1, $2)", [claim.key, claim.epoch], "work_fence");
}

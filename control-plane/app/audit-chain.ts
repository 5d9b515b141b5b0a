/**
 * The audit log's chain of hashes, one per project. Events get their places in the order of commits, a little
 * after they were written, so that changes do not wait for each other; the end of each chain is signed. Rows are only
 * ever added (see the trigger), until they are too old: then a signed gap stands in the place of the oldest.
 */
import { createHash, sign, verify, type KeyObject } from "node:crypto";
import type { Ctx } from "#kernel/ctx.ts";
import type { Database, Queryable, Tx } from "../store/database.ts";
import { locks } from "../store/locks.ts";
import { auditColumns, auditedProject, type AuditEvent } from "./audit.ts";
import type { SigningKeys } from "./signing-keys.ts";
import { invalidField } from "./validation.ts";

export interface Verdict {
  readonly project: string;
  /** So far, when there is a next page. */
  readonly intact: boolean;
  /** The last place that was gone over. */
  readonly events: number;
  /** The first place where the chain does not hold; null: it does. */
  readonly broken_at: number | null;
  readonly hash: string;
  /** The key that signed the chain's end; null: it is not signed by one that is known, or not reached yet. */
  readonly signed_by: string | null;
  /** Events that were taken out because they were old: up to which place, and which time. */
  readonly gap: { readonly events: number; readonly until: string } | null;
  /** Where to go on. */
  readonly next: string | null;
}

export interface AuditChainOptions {
  readonly database: Database;
  readonly keys: Pick<SigningKeys, "current" | "find">;
  /** How long events are kept; undefined: for ever. */
  readonly keepMs?: number | undefined;
  readonly now?: () => number;
}

interface Place {
  readonly seq: number;
  readonly hash: string;
}
interface Signed extends Place {
  readonly signature: string;
  readonly kid: string;
}
interface Gap extends Signed {
  readonly until: Date;
}

const genesis: Place = { seq: 0, hash: "0".repeat(64) };
const batch = 1000;
/** Most that one look takes out of a project's log. */
const dropped = 5000;
/** Events that were written just now are chained before a verification, but not for ever. */
const maxRounds = 20;
const retainEveryMs = 3_600_000;
const cursorPattern = /^(\d{1,15})\.([0-9a-f]{64})$/;

export class AuditChain {
  readonly #options: AuditChainOptions;
  readonly #now: () => number;
  #retainedAtMs = -Infinity;

  constructor(options: AuditChainOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Gives events their places, in the order of commits, and signs the new ends. Gives how many; replicas take turns. */
  async chain(): Promise<number> {
    const key = await this.#options.keys.current();
    return this.#alone(async (tx) => {
      // Later than every transaction that still runs: none will commit in between.
      const rows = await tx.query<AuditEvent>(
        `select ${auditColumns} from audit_event where seq is null and tx < pg_snapshot_xmin(pg_current_snapshot())
         order by audit_event.tx, id limit ${String(batch)}`,
      );
      const ends = await this.#signAgain(tx, key);
      const places: Place[] = [];
      for (const row of rows) {
        const last = ends.get(row.project) ?? (await endOf(tx, row.project)) ?? genesis;
        const place = after(last, row);
        places.push(place);
        ends.set(row.project, place);
      }
      tx.post(
        `update audit_event e set seq = p.seq, hash = p.hash
         from unnest($1::text[], $2::bigint[], $3::text[]) as p(id, seq, hash) where e.id = p.id`,
        [rows.map(({ id }) => id), places.map(({ seq }) => seq), places.map(({ hash }) => hash)],
        "audit_chain",
      );
      for (const [project, { seq, hash }] of ends) {
        await tx.query(
          `insert into audit_head (project, seq, hash, signature, kid) values ($1, $2, $3, $4, $5)
           on conflict (project) do update set seq = excluded.seq, hash = excluded.hash,
             signature = excluded.signature, kid = excluded.kid, at = now()`,
          [project, seq, hash, signed(endText(project, { seq, hash }), key), key.kid],
        );
      }
      return rows.length;
    });
  }

  /**
   * Goes over the caller's project's chain, at most `limit` events of it.
   * @param from the `next` of the page before; undefined: from the beginning
   */
  async verify(
    { principal }: Ctx,
    { limit, from }: { limit: number; from?: string | undefined },
  ): Promise<Verdict> {
    const project = auditedProject(principal);
    if (from === undefined) for (let i = 0; i < maxRounds && (await this.chain()) === batch; i++);
    const gap = await gapOf(this.#options.database, project);
    let last: Place = from === undefined ? genesis : placeOf(from);
    const verdict = (
      broken: number | null,
      signedBy: string | null,
      next: string | null = null,
    ): Verdict => ({
      project,
      intact: broken === null && (signedBy !== null || last.seq === 0 || next !== null),
      events: last.seq,
      broken_at: broken,
      hash: last.hash,
      signed_by: signedBy,
      gap: gap ? { events: gap.seq, until: gap.until.toISOString() } : null,
      next,
    });
    if (gap && gap.seq >= last.seq) {
      if (!(await this.#isSigned(gapText(project, gap), gap))) return verdict(gap.seq, null);
      last = gap;
    }
    const end = await endOf(this.#options.database, project);
    for (let left = limit; ;) {
      const rows = await this.#rowsAfter(this.#options.database, project, last, Math.min(batch, left));
      for (const row of rows) {
        const place = after(last, row);
        if (row.seq !== place.seq || row.hash !== place.hash) return verdict(place.seq, null);
        last = place;
        // The signed end, which more events may have followed by now.
        if (end?.seq === place.seq && end.hash !== place.hash) return verdict(place.seq, null);
      }
      left -= rows.length;
      if (end && last.seq >= end.seq) break;
      if (rows.length === 0) return verdict(end || last.seq > 0 ? last.seq + 1 : null, null);
      if (left <= 0) return verdict(null, null, `${String(last.seq)}.${last.hash}`);
    }
    const good = await this.#isSigned(endText(project, end), end);
    return verdict(good ? null : end.seq, good ? end.kid : null);
  }

  /** Takes out what is too old, once an hour; gives how many. What does not hold stays, to be seen. */
  async retain(): Promise<number> {
    const { keepMs, database, keys } = this.#options;
    if (keepMs === undefined || this.#now() < this.#retainedAtMs + retainEveryMs) return 0;
    const until = new Date(this.#now() - keepMs);
    const key = await keys.current();
    const projects = await database.query<{ project: string }>("select project from audit_head");
    let count = 0;
    let full = false;
    for (const { project } of projects) {
      const taken = await this.#alone((tx) => this.#takeOut(tx, project, until, key));
      count += taken;
      full ||= taken === dropped;
    }
    if (!full) this.#retainedAtMs = this.#now();
    return count;
  }

  async #takeOut(tx: Tx, project: string, until: Date, key: SigningKeyOf): Promise<number> {
    const gap = await gapOf(tx, project);
    if (gap && !(await this.#isSigned(gapText(project, gap), gap))) return 0;
    const first: Place = gap ?? genesis;
    let last = first;
    for (const row of await this.#rowsAfter(tx, project, first, dropped)) {
      if (row.at >= until) break;
      const place = after(last, row);
      if (row.seq !== place.seq || row.hash !== place.hash) return 0;
      last = place;
    }
    if (last === first) return 0;
    await storeGap(tx, project, { ...last, until }, key);
    await tx.query("delete from audit_event where project = $1 and seq <= $2", [project, last.seq]);
    return last.seq - first.seq;
  }

  /** An old key is forgotten some day: what it signed is signed again while it is known. Gives the chains' ends. */
  async #signAgain(tx: Tx, key: SigningKeyOf): Promise<Map<string, Place>> {
    const ends = new Map<string, Place>();
    for (const end of await tx.query<Signed & { project: string }>(
      "select * from audit_head where kid <> $1",
      [key.kid],
    )) {
      if (await this.#isSigned(endText(end.project, end), end)) ends.set(end.project, end);
    }
    for (const gap of await tx.query<Gap & { project: string }>("select * from audit_gap where kid <> $1", [
      key.kid,
    ])) {
      if (await this.#isSigned(gapText(gap.project, gap), gap)) await storeGap(tx, gap.project, gap, key);
    }
    return ends;
  }

  #rowsAfter(on: Queryable, project: string, { seq }: Place, limit: number): Promise<AuditEvent[]> {
    return on.query<AuditEvent>(
      `select ${auditColumns} from audit_event where project = $1 and seq > $2 order by seq limit $3`,
      [project, seq, limit],
    );
  }

  async #isSigned(text: Buffer, { signature, kid }: Signed): Promise<boolean> {
    const key = await this.#options.keys.find(kid);
    return key !== undefined && verify(null, text, key, Buffer.from(signature, "base64"));
  }

  #alone<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#options.database.transaction(async (tx) => {
      await tx.query("select pg_advisory_xact_lock($1)", [locks.auditChain]);
      return work(tx);
    });
  }
}

type SigningKeyOf = { readonly kid: string; readonly privateKey: KeyObject };

const signed = (text: Buffer, { privateKey }: SigningKeyOf) =>
  sign(null, text, privateKey).toString("base64");

const endText = (project: string, { seq, hash }: Place) => Buffer.from(`${project} ${String(seq)} ${hash}`);

const gapText = (project: string, { seq, hash, until }: Place & { readonly until: Date }) =>
  Buffer.from(`gap ${project} ${String(seq)} ${hash} ${until.toISOString()}`);

async function endOf(on: Queryable, project: string): Promise<Signed | undefined> {
  const sql = "select seq, hash, signature, kid from audit_head where project = $1";
  return (await on.query<Signed>(sql, [project]))[0];
}

async function gapOf(on: Queryable, project: string): Promise<Gap | undefined> {
  const sql = "select seq, hash, until, signature, kid from audit_gap where project = $1";
  return (await on.query<Gap>(sql, [project]))[0];
}

async function storeGap(
  tx: Tx,
  project: string,
  gap: Place & { until: Date },
  key: SigningKeyOf,
): Promise<void> {
  await tx.query(
    `insert into audit_gap (project, seq, hash, until, signature, kid) values ($1, $2, $3, $4, $5, $6)
     on conflict (project) do update set seq = excluded.seq, hash = excluded.hash, until = excluded.until,
       signature = excluded.signature, kid = excluded.kid, at = now()`,
    [project, gap.seq, gap.hash, gap.until, signed(gapText(project, gap), key), key.kid],
  );
}

function placeOf(cursor: string): Place {
  const [, seq, hash] = cursorPattern.exec(cursor) ?? [];
  if (seq === undefined || hash === undefined) throw invalidField("from", "is not the `next` of a page");
  return { seq: Number(seq), hash };
}

function after(previous: Place, { id, project, at, event }: AuditEvent): Place {
  const seq = previous.seq + 1;
  const told = JSON.stringify([previous.hash, seq, id, project, at.toISOString(), sorted(event)]);
  return { seq, hash: createHash("sha256").update(told).digest("hex") };
}

/** The database keeps no order of keys. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, member]) => [name, sorted(member)]),
  );
}

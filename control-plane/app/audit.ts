/**
 * Who did what, or tried to. An event is written in the transaction of the change that it tells of; its
 * place in its project's chain of hashes is given a little later, in the order of commits, so that changes
 * do not wait for each other. The end of each chain is signed. Rows are only ever added: see the trigger.
 */
import { createHash, sign, verify } from "node:crypto";
import type { Ctx, Principal } from "#kernel/ctx.ts";
import type { Json } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import type { Database, Queryable, Tx } from "../store/database.ts";
import { rootProject } from "./authorisation.ts";
import type { SigningKeys } from "./signing-keys.ts";
import { locks } from "../store/locks.ts";

/** What happened, in the core's words. */
export interface AuditFacts {
  /** Such as `instance.create`. */
  readonly action: string;
  readonly resource: string;
  readonly resource_id: string | null;
  readonly success: boolean;
  /** The fault's reason, when it failed. */
  readonly reason?: string;
  readonly before?: Json;
  readonly after?: Json;
}

export type AuditBody = AuditFacts & {
  readonly user_id: string;
  readonly username: string;
  readonly ip_address: string | null;
  readonly request_id: string;
};

export interface AuditEvent {
  readonly id: string;
  readonly project: string;
  readonly at: Date;
  readonly event: AuditBody;
  /** Null until it has its place in the chain. */
  readonly seq: number | null;
  readonly hash: string | null;
}

export interface AuditQuery {
  readonly userId?: string | undefined;
  readonly action?: string | undefined;
  readonly start?: Date | undefined;
  readonly end?: Date | undefined;
  readonly limit: number;
  readonly offset: number;
}

export interface Verdict {
  readonly project: string;
  readonly intact: boolean;
  readonly events: number;
  /** The first place where the chain does not hold; null: it does. */
  readonly broken_at: number | null;
  readonly hash: string;
  /** The key that signed the chain's end; null: it is not signed by one that is known. */
  readonly signed_by: string | null;
}

interface Head {
  readonly seq: number;
  readonly hash: string;
  readonly signature: string;
  readonly kid: string;
}

const genesis = "0".repeat(64);
const batch = 1000;
const columns = "id, project, at, event, seq, hash";
const secretField = /password|secret|token|private|user_data|api_key/i;

/** Writes an event; `on` is the transaction of the change, where there is one. */
export function recordAudit(on: Queryable, ctx: Ctx, facts: AuditFacts): Promise<unknown> {
  return on.query(...statement(ctx, facts));
}

/** As {@link recordAudit}, without waiting: it is there if the change is. */
export function postAudit(tx: Tx, ctx: Ctx, facts: AuditFacts): void {
  tx.post(...statement(ctx, facts));
  if (ctx.trail) ctx.trail.recorded = true;
}

function statement(ctx: Ctx, facts: AuditFacts): [string, unknown[], string] {
  const { principal, requestId, trail } = ctx;
  const event: AuditBody = {
    ...facts,
    user_id: principal.id,
    username: principal.name,
    ip_address: trail?.address ?? null,
    request_id: requestId,
  };
  return [
    "insert into audit_event (id, project, event) values ($1, $2, $3)",
    [newId("audit"), projectOf(principal), JSON.stringify(redact(event))],
    "audit_insert",
  ];
}

/** What nobody in particular did is the cloud's matter. */
const projectOf = ({ project }: Principal) => (project === "" ? rootProject : project);

/** The same without what is secret. */
export function redact(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(redact);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => [
      name,
      secretField.test(name) && member !== null ? "(redacted)" : redact(member),
    ]),
  );
}

export class AuditLog {
  readonly #database: Database;
  readonly #keys: Pick<SigningKeys, "current" | "find">;

  constructor(options: {
    readonly database: Database;
    readonly keys: Pick<SigningKeys, "current" | "find">;
  }) {
    this.#database = options.database;
    this.#keys = options.keys;
  }

  /** What no resource's change has recorded by itself. */
  async record(ctx: Ctx, facts: AuditFacts): Promise<void> {
    await recordAudit(this.#database, ctx, facts);
  }

  /** A page of the caller's project's events, the newest first. */
  async list(
    { principal }: Ctx,
    query: AuditQuery,
  ): Promise<{ events: readonly AuditEvent[]; total: number }> {
    const values: unknown[] = [projectOf(principal)];
    const where = ["project = $1"];
    const add = (condition: string, value: unknown) => {
      if (value !== undefined) where.push(`${condition} $${String(values.push(value))}`);
    };
    add("event ->> 'user_id' =", query.userId);
    add("event ->> 'action' =", query.action);
    add("at >=", query.start);
    add("at <=", query.end);
    const matching = `from audit_event where ${where.join(" and ")}`;
    const [count] = await this.#database.query<{ total: number }>(
      `select count(*) as total ${matching}`,
      values,
    );
    const events = await this.#database.query<AuditEvent>(
      `select ${columns} ${matching} order by at desc, id desc limit ${String(query.limit)} offset ${String(query.offset)}`,
      values,
    );
    return { events, total: count?.total ?? 0 };
  }

  /** Gives events their places, in the order of commits, and signs the new ends. Gives how many; replicas take turns. */
  async chain(): Promise<number> {
    const { kid, privateKey } = await this.#keys.current();
    return this.#database.transaction(async (tx) => {
      await tx.query("select pg_advisory_xact_lock($1)", [locks.auditChain]);
      // Later than every transaction that still runs: none will commit in between.
      const rows = await tx.query<AuditEvent>(
        `select ${columns} from audit_event where seq is null and tx < pg_snapshot_xmin(pg_current_snapshot())
         order by audit_event.tx, id limit ${String(batch)}`,
      );
      const heads = new Map<string, { seq: number; hash: string }>();
      // An old key is forgotten some day: what it signed is signed again while it is known.
      for (const old of await tx.query<Head & { project: string }>(
        "select * from audit_head where kid <> $1",
        [kid],
      )) {
        if (await this.#isSigned(old.project, old)) heads.set(old.project, { seq: old.seq, hash: old.hash });
      }
      for (const row of rows) {
        const head = heads.get(row.project) ?? (await headOf(tx, row.project)) ?? { seq: 0, hash: genesis };
        const seq = head.seq + 1;
        const hash = hashOf(head.hash, seq, row);
        tx.post(
          "update audit_event set seq = $2, hash = $3 where id = $1",
          [row.id, seq, hash],
          "audit_chain",
        );
        heads.set(row.project, { seq, hash });
      }
      for (const [project, { seq, hash }] of heads) {
        const signature = sign(null, headText(project, seq, hash), privateKey).toString("base64");
        await tx.query(
          `insert into audit_head (project, seq, hash, signature, kid) values ($1, $2, $3, $4, $5)
           on conflict (project) do update set seq = excluded.seq, hash = excluded.hash,
             signature = excluded.signature, kid = excluded.kid, at = now()`,
          [project, seq, hash, signature, kid],
        );
      }
      return rows.length;
    });
  }

  /** Goes over the caller's project's chain from its beginning. */
  async verify({ principal }: Ctx): Promise<Verdict> {
    while ((await this.chain()) === batch);
    const project = projectOf(principal);
    let last = { seq: 0, hash: genesis };
    const verdict = (broken: number | null, signedBy: string | null): Verdict => ({
      project,
      intact: broken === null && (signedBy !== null || last.seq === 0),
      events: last.seq,
      broken_at: broken,
      hash: last.hash,
      signed_by: signedBy,
    });
    for (;;) {
      const rows = await this.#database.query<AuditEvent>(
        `select ${columns} from audit_event where project = $1 and seq > $2 order by seq limit ${String(batch)}`,
        [project, last.seq],
      );
      for (const row of rows) {
        const seq = last.seq + 1;
        const hash = hashOf(last.hash, seq, row);
        if (row.seq !== seq || row.hash !== hash) return verdict(seq, null);
        last = { seq, hash };
      }
      if (rows.length < batch) break;
    }
    const head = await headOf(this.#database, project);
    if (!head) return verdict(last.seq === 0 ? null : last.seq, null);
    // Events may have been chained since; fewer than were signed are a cut.
    if (head.seq > last.seq) return verdict(last.seq + 1, null);
    if (head.seq === last.seq && head.hash !== last.hash) return verdict(last.seq, null);
    const signed = await this.#isSigned(project, head);
    return verdict(signed ? null : head.seq, signed ? head.kid : null);
  }

  async #isSigned(project: string, { seq, hash, signature, kid }: Head): Promise<boolean> {
    const key = await this.#keys.find(kid);
    return (
      key !== undefined && verify(null, headText(project, seq, hash), key, Buffer.from(signature, "base64"))
    );
  }
}

async function headOf(on: Queryable, project: string): Promise<Head | undefined> {
  const sql = "select seq, hash, signature, kid from audit_head where project = $1";
  return (await on.query<Head>(sql, [project]))[0];
}

const headText = (project: string, seq: number, hash: string) =>
  Buffer.from(`${project} ${String(seq)} ${hash}`);

function hashOf(previous: string, seq: number, { id, project, at, event }: AuditEvent): string {
  const told = JSON.stringify([previous, seq, id, project, at.toISOString(), sorted(event)]);
  return createHash("sha256").update(told).digest("hex");
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

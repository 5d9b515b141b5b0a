/**
 * Who did what, or tried to. An event is written in the transaction of the change that it tells of; its
 * place in its project's chain of hashes is given a little later, see audit-chain.ts.
 */
import type { Ctx, Principal } from "#kernel/ctx.ts";
import type { Json } from "#kernel/fault.ts";
import { newId } from "#kernel/id.ts";
import type { Database, Queryable, Tx } from "../store/database.ts";
import { rootProject } from "./authorisation.ts";

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

export const auditColumns = "id, project, at, event, seq, hash";
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
  const { requestId, trail } = ctx;
  const principal = trail?.who ?? ctx.principal;
  const event: AuditBody = {
    ...facts,
    user_id: principal.id,
    username: principal.name,
    ip_address: trail?.address ?? null,
    request_id: requestId,
  };
  return [
    "insert into audit_event (id, project, event) values ($1, $2, $3)",
    [newId("audit"), auditedProject(principal), JSON.stringify(redact(event))],
    "audit_insert",
  ];
}

/** What nobody in particular did is the cloud's matter. */
export const auditedProject = ({ project }: Principal) => (project === "" ? rootProject : project);

/** The same without what is secret. */
export function redact(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(redact);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => [
      name,
      isSecret(name, member) ? "(redacted)" : redact(member),
    ]),
  );
}

/** A label may be called `environment` as well; what a workload is told in its own holds passwords. */
function isSecret(name: string, member: unknown): boolean {
  if (member === null) return false;
  return secretField.test(name) || (name === "environment" && typeof member === "object");
}

export class AuditLog {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
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
    const values: unknown[] = [auditedProject(principal)];
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
      `select ${auditColumns} ${matching} order by at desc, id desc limit ${String(query.limit)} offset ${String(query.offset)}`,
      values,
    );
    return { events, total: count?.total ?? 0 };
  }
}

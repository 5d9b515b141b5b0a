/**
 * Rows of `resource` as {@link Resource}s, and the one function that changes them: it computes the
 * phase, raises the revision and writes the event in the same statement.
 *
 * Lock order, everywhere: work, then host_capacity, then resource, then the rest; by id within each.
 */
import { Fault } from "#kernel/fault.ts";
import { newIdSuffix } from "#kernel/id.ts";
import type { Logger } from "#kernel/log.ts";
import type { AnyDefinition, Placement, Problem, Resource } from "../resources/definition.ts";
import { violates, type Queryable, type Tx } from "../store/database.ts";

export interface ResourceRow {
  readonly id: string;
  readonly kind: string;
  readonly project: string;
  readonly name: string;
  readonly labels: Record<string, string>;
  readonly owner: string;
  readonly generation: number;
  readonly observed_generation: number;
  readonly desired: unknown;
  readonly observed: unknown;
  readonly refs: Record<string, string>;
  readonly placement: Placement | null;
  readonly problem: Problem | null;
  readonly phase: string;
  readonly host_id: string | null;
  readonly revision: number;
  readonly schema_version: number;
  readonly created_at: Date;
  readonly updated_at: Date;
  readonly deleting_at: Date | null;
}

export const resourceColumns = `id, kind, project, name, labels, owner, generation, observed_generation, desired, observed,
  refs, placement, problem, phase, host_id, revision, schema_version, created_at, updated_at, deleting_at`;

export function toResource(row: ResourceRow): Resource {
  return {
    id: row.id,
    kind: row.kind,
    project: row.project,
    name: row.name,
    labels: row.labels,
    owner: row.owner,
    generation: row.generation,
    observedGeneration: row.observed_generation,
    desired: row.desired,
    observed: row.observed ?? undefined,
    refs: row.refs,
    placement: row.placement ?? undefined,
    problem: row.problem ?? undefined,
    phase: row.phase,
    hostId: row.host_id ?? undefined,
    revision: row.revision,
    schemaVersion: row.schema_version,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    deletingAt: row.deleting_at ?? undefined,
  };
}

/** Reads the row and keeps it from changing until the transaction ends. */
export async function lockResource(tx: Tx, id: string): Promise<Resource | undefined> {
  const [row] = await tx.query<ResourceRow>(
    `select ${resourceColumns} from resource where id = $1 for update`,
    [id],
    "resource_lock",
  );
  return row && toResource(row);
}

/** As {@link lockResource}, of many; those that there are, always locked in the same order. */
export async function lockResources(tx: Tx, ids: readonly string[]): Promise<readonly Resource[]> {
  const rows = await tx.query<ResourceRow>(
    `select ${resourceColumns} from resource where id = any($1) order by id for update`,
    [ids],
    "resources_lock",
  );
  return rows.map(toResource);
}

/** As {@link lockResource}, of an open request to a resource. */
export async function lockRequest(tx: Tx, id: string, requestOf: string): Promise<Resource | undefined> {
  const [row] = await tx.query<ResourceRow>(
    `select ${resourceColumns} from resource where id = $1 and request_of = $2 for update`,
    [id, requestOf],
    "request_lock",
  );
  return row && toResource(row);
}

/** What one write may change; `undefined` as a value clears the column. */
export interface ResourceChange {
  readonly name?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly generation?: number;
  readonly observedGeneration?: number;
  readonly desired?: unknown;
  readonly observed?: unknown;
  readonly placement?: Placement | undefined;
  readonly problem?: Problem | undefined;
  readonly hostId?: string | undefined;
  readonly deletingAt?: Date | undefined;
}

/**
 * Writes a change to a row that this transaction has locked, with its phase and its event.
 * A phase that may not follow raises an alarm but is stored: a report is never lost.
 */
export async function changeResource(
  tx: Tx,
  definition: AnyDefinition,
  before: Resource,
  change: ResourceChange,
  log: Logger,
): Promise<Resource> {
  const { statement, after } = toChange(definition, before, change, log);
  const [row] = await tx.query<{ updated_at: Date }>(...statement).catch((error: unknown) => {
    throw violates(error, "resource_unique_name") ? nameTaken(definition, after.name) : error;
  });
  if (!row) throw new Fault("stale", "the resource is gone");
  return { ...after, updatedAt: row.updated_at };
}

/** As {@link changeResource}, without waiting: what it gives does not know when that was. */
export function postChange(
  tx: Tx,
  definition: AnyDefinition,
  before: Resource,
  change: ResourceChange,
  log: Logger,
): Resource {
  const { statement, after } = toChange(definition, before, change, log);
  tx.post(...statement);
  return after;
}

function toChange(
  definition: AnyDefinition,
  before: Resource,
  change: ResourceChange,
  log: Logger,
): { readonly statement: Parameters<Tx["post"]>; readonly after: Resource } {
  const changed = { ...before, ...change };
  const phase = definition.phase(changed) as string;
  if (phase !== before.phase && !(definition.next[before.phase] ?? []).includes(phase)) {
    log.error("phase.illegal", { resource: before.id, from: before.phase, to: phase });
  }
  const columns = Object.entries(toColumns(change));
  const event = {
    phase,
    previous_phase: before.phase,
    revision: before.revision + 1,
    generation: changed.generation,
  };
  const names = columns.map(([name]) => name);
  return {
    statement: [
      changeStatement(names),
      [before.id, phase, `evt-${newIdSuffix()}`, event, ...columns.map(([, value]) => value)],
      // Few combinations exist, so each is worth preparing.
      `resource_change:${names.join()}`,
    ],
    after: { ...changed, phase, revision: before.revision + 1 },
  };
}

/** The columns that a change names, as they are stored, always in the same order. */
function toColumns(change: ResourceChange): Record<string, unknown> {
  return {
    ...("name" in change && { name: change.name }),
    ...("labels" in change && { labels: change.labels }),
    ...("generation" in change && { generation: change.generation }),
    ...("observedGeneration" in change && { observed_generation: change.observedGeneration }),
    ...("desired" in change && { desired: json(change.desired) }),
    ...("observed" in change && { observed: json(change.observed) }),
    ...("placement" in change && { placement: json(change.placement) }),
    ...("problem" in change && { problem: json(change.problem) }),
    ...("hostId" in change && { host_id: change.hostId ?? null }),
    ...("deletingAt" in change && { deleting_at: change.deletingAt ?? null }),
  };
}

/** Only what changes is written: to parse and store an explanation again with each report would cost more than the rest. */
function changeStatement(columns: readonly string[]): string {
  const assignments = columns.map((name, index) => `${name} = $${String(index + 5)}, `).join("");
  return `with changed as (
      update resource set ${assignments}phase = $2, revision = revision + 1, updated_at = clock_timestamp()
      where id = $1 returning id, kind, project, updated_at)
    , event as (
      insert into outbox (event_id, type, resource_id, kind, project, payload)
      select $3, kind || '.changed', id, kind, project, $4 from changed)
    select updated_at from changed`;
}

/**
 * Takes the row and all that hangs on it away, and leaves a tombstone so that leftovers are known as such; of what
 * lingers, with what it was last.
 */
export async function eraseResource(
  tx: Tx,
  { lingers }: Pick<AnyDefinition, "lingers">,
  resource: Resource,
): Promise<void> {
  await tx.query(
    `with gone as (delete from resource where id = $1 returning *)
     , tomb as (
       insert into tombstone (id, kind, last)
       select id, kind, case when $3 then to_jsonb(gone) end from gone on conflict do nothing)
     , freed as (delete from reservation where resource_id = $1)
     , idle as (delete from work where key = $1)
     insert into outbox (event_id, type, resource_id, kind, project, payload)
     select $2, kind || '.deleted', id, kind, project, '{}' from gone`,
    [resource.id, `evt-${newIdSuffix()}`, lingers === true],
    "resource_erase",
  );
}

export interface NewResource {
  readonly id: string;
  readonly project: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly owner?: string;
  readonly desired: unknown;
  readonly observed?: unknown;
  readonly refs: Readonly<Record<string, string>>;
}

/** Stores a new resource with its event, and as work to do when its kind is reconciled. Throws `conflict` NAME_TAKEN where the kind's names are unique. */
export async function insertResource(
  on: Queryable,
  definition: AnyDefinition,
  input: NewResource,
): Promise<Resource> {
  const phase = definition.phase({
    desired: input.desired,
    observed: input.observed,
    generation: 1,
    observedGeneration: 0,
    problem: undefined,
    hostId: undefined,
    deletingAt: undefined,
  }) as string;
  const [row] = await on.query<ResourceRow>(
    `with made as (
       insert into resource (id, kind, project, name, labels, desired, observed, refs, phase, schema_version, owner)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $13) on conflict do nothing returning *)
     , event as (
       insert into outbox (event_id, type, resource_id, kind, project, payload)
       select $11, kind || '.created', id, kind, project, jsonb_build_object('phase', phase) from made)
     , work as (
       insert into work (key, kind, run_at) select id, kind, now() from made where $12 on conflict do nothing)
     select ${resourceColumns} from made`,
    [
      input.id,
      definition.kind,
      input.project,
      input.name,
      input.labels,
      json(input.desired),
      json(input.observed),
      input.refs,
      phase,
      definition.schemaVersion,
      `evt-${newIdSuffix()}`,
      definition.reconciled && definition.requestOf === undefined,
      input.owner ?? "",
    ],
    "resource_insert",
  );
  if (!row) throw nameTaken(definition, input.name);
  return toResource(row);
}

const nameTaken = ({ kind }: AnyDefinition, name: string) =>
  new Fault("conflict", `there is already ${article(kind)} named ${name}`, {
    reason: "NAME_TAKEN",
    detail: { name },
  });

function article(kind: string): string {
  const words = kind.replaceAll("_", " ");
  return /^(?!us)[aeiou]/.test(words) ? `an ${words}` : `a ${words}`;
}

/** pg would send a top-level array as a PostgreSQL array and a string unquoted: jsonb gets text. */
function json(value: unknown): string | null {
  return value === undefined || value === null ? null : JSON.stringify(value);
}

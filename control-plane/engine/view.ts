import type { Json } from "#kernel/fault.ts";
import type { Queryable, Readable } from "../store/database.ts";
import type { Incarnation, OperationError, OperationRecord, Reserved, View } from "./controller.ts";
import type { Resource } from "../resources/definition.ts";
import { resourceColumns, toResource, type ResourceRow } from "./rows.ts";

interface OperationJson {
  readonly id: string;
  readonly name: string;
  readonly version: number;
  readonly status: OperationRecord["status"];
  readonly input: Json;
  readonly error: OperationError | null;
  readonly attempt: number;
  readonly created_at: string;
  readonly steps: readonly { name: string; status: "done" | "undone"; output: Json }[] | null;
}

interface ViewRow extends ResourceRow {
  readonly incarnations: readonly (Omit<Incarnation, "updatedAt"> & { updatedAt: string })[] | null;
  readonly requests: readonly ResourceRow[] | null;
  readonly reserved: readonly Reserved[] | null;
  /** The newest first. */
  readonly operations: readonly OperationJson[] | null;
  readonly referred: Record<string, ResourceRow> | null;
  readonly dependents: number;
  readonly host_lost: "judged" | "certain" | null;
}

/** One may be in progress, and it is the newest then: the two newest hold it and the one that ended last. */
const operationsJson = `(
  select jsonb_agg(jsonb_build_object('id', o.id, 'name', o.name, 'version', o.version, 'status', o.status, 'input', o.input,
      'error', o.error, 'attempt', o.attempt, 'created_at', o.created_at,
      'steps', (select jsonb_agg(jsonb_build_object('name', s.name, 'status', s.status, 'output', s.output) order by s.position)
                from operation_step s where s.operation_id = o.id)) order by o.created_at desc, o.id desc)
  from (select * from operation where resource_id = r.id order by created_at desc, id desc limit 2) o)`;

const incarnationsJson = `(
  select jsonb_agg(jsonb_build_object('hostId', i.host_id, 'seq', i.seq, 'epoch', i.epoch,
      'acceptedGeneration', i.accepted_generation, 'generation', i.generation, 'state', i.state,
      'observed', i.observed, 'updatedAt', i.updated_at,
      'connected', (i.host_id = r.host_id and r.kind <> 'workload')
        or (select coalesce((h.observed ->> 'connected')::boolean, false) from resource h where h.id = i.host_id)))
  from incarnation i where i.resource_id = r.id)`;

const requestsJson = `(
  select jsonb_agg(to_jsonb(q) order by q.created_at, q.id) from resource q where q.request_of = r.id)`;

/**
 * References are looked up one by one: joined, they are planned as if there were a hundred, by a scan of
 * every resource there is.
 */
const viewQuery = `select ${resourceColumns},
    ${incarnationsJson} as incarnations,
    ${requestsJson} as requests,
    (select jsonb_agg(jsonb_build_object('hostId', v.host_id, 'cpus', v.cpus, 'memoryBytes', v.memory_bytes,
        'diskBytes', v.disk_bytes)) from reservation v where v.resource_id = r.id) as reserved,
    ${operationsJson} as operations,
    (select jsonb_object_agg(f.key, x.row) from jsonb_each_text(r.refs) f
      cross join lateral (select to_jsonb(t) as row from resource t where t.id = f.value limit 1) x) as referred,
    (select case when s.lost_at is not null then case when s.lost_certain then 'certain' else 'judged' end end
      from host_session s where s.host_id = r.host_id) as host_lost,
    case r.kind when 'host' then (select count(*) from resource t where t.host_id = r.id)
      when 'image' then (
        select count(*) from resource t where t.refs @> jsonb_build_object('image', r.id))
      else 0 end as dependents
  from resource r where r.id = $1`;

/** Reads all that a decision may look at, in one statement and so of one moment. */
export async function loadView(on: Readable, id: string): Promise<View | undefined> {
  const [row] = await on.read<ViewRow>(viewQuery, [id], "engine_view");
  return row && toView(row);
}

function toView(row: ViewRow): View {
  const operations = (row.operations ?? []).map(toOperation);
  return {
    resource: toResource(row),
    incarnations: (row.incarnations ?? []).map(toIncarnation),
    reserved: row.reserved ?? [],
    operation: operations.find((operation) => !hasEnded(operation)),
    lastOperation: operations.find(hasEnded),
    requests: toRequests(row),
    references: Object.fromEntries(
      Object.entries(row.referred ?? {}).map(([name, referred]) => [name, toResource(withDates(referred))]),
    ),
    dependents: row.dependents,
    hostLost: row.host_lost !== null,
    hostDead: row.host_lost === "certain",
  };
}

function hasEnded({ status }: OperationRecord): boolean {
  return status !== "running" && status !== "undoing";
}

export function toIncarnation(json: Omit<Incarnation, "updatedAt"> & { updatedAt: string }): Incarnation {
  return { ...json, updatedAt: new Date(json.updatedAt) };
}

function toOperation(json: OperationJson): OperationRecord {
  const steps = json.steps ?? [];
  return {
    id: json.id,
    name: json.name,
    version: json.version,
    status: json.status,
    input: json.input,
    error: json.error ?? undefined,
    attempt: json.attempt,
    createdAt: new Date(json.created_at),
    outputs: Object.fromEntries(steps.map((s) => [s.name, s.output])),
    done: steps.filter((s) => s.status === "done").map((s) => s.name),
    undone: steps.filter((s) => s.status === "undone").map((s) => s.name),
  };
}

/** to_jsonb() turned the timestamps into text. */
function withDates(row: ResourceRow): ResourceRow {
  return {
    ...row,
    created_at: new Date(row.created_at),
    updated_at: new Date(row.updated_at),
    deleting_at: row.deleting_at && new Date(row.deleting_at),
  };
}

function toRequests({ requests }: ViewRow): Resource[] {
  return (requests ?? []).map((request) => toResource(withDates(request)));
}

export interface Observed {
  readonly resource: Resource;
  readonly incarnations: readonly Incarnation[];
  readonly requests: readonly Resource[];
}

/** Locks resources, in id order, and reads them with their incarnations and open requests. */
export async function lockWithIncarnations(on: Queryable, ids: readonly string[]): Promise<Observed[]> {
  const rows = await on.query<ViewRow>(
    `select ${resourceColumns}, ${incarnationsJson} as incarnations, ${requestsJson} as requests
     from resource r where r.id = any($1) order by r.id for update of r`,
    [ids],
    "engine_lock_observed",
  );
  return rows.map((row) => ({
    resource: toResource(row),
    incarnations: (row.incarnations ?? []).map(toIncarnation),
    requests: toRequests(row),
  }));
}

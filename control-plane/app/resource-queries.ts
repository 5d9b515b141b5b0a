/** Reading resources as one principal sees them. */
import type { Principal } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import { parseId } from "#kernel/id.ts";
import { resourceColumns, toResource, type ResourceRow } from "../engine/rows.ts";
import type { AnyDefinition, Resource } from "../resources/definition.ts";
import type { Queryable, Readable } from "../store/database.ts";
import { isCloudAdmin, rootProject } from "./authorisation.ts";
import type { ListPage, ListQuery } from "./resource-api.ts";
import { invalidField } from "./validation.ts";

/** The projects whose resources of this kind the principal sees; undefined: all. */
function visibleProjects(principal: Principal, { scope }: AnyDefinition): readonly string[] | undefined {
  if (scope === "project") return [principal.project];
  if (scope === "directory") return isCloudAdmin(principal) ? undefined : [principal.project];
  return [...new Set([principal.project, rootProject])];
}

/** Whether the principal sees what belongs to this project, of this kind. */
export function sees(principal: Principal, kind: AnyDefinition, project: string): boolean {
  return visibleProjects(principal, kind)?.includes(project) ?? true;
}

/** The canonical form of an id of this kind; what is no id names nothing. */
export function canonicalId(kind: AnyDefinition, id: string): string {
  return kind.wellKnownIds?.includes(id) ? id : parseId(id, kind.idPrefixes);
}

/** What cannot be seen does not exist: `notFound` for other projects' things and for other kinds' ids. */
export async function readResource(
  on: Readable,
  principal: Principal,
  kind: AnyDefinition,
  id: string,
): Promise<Resource> {
  const canonical = canonicalId(kind, id);
  // By id alone: asked for kind and project as well, a planner without statistics reads all of the kind.
  const [row] = await on.read<ResourceRow>(
    `select ${resourceColumns} from ${kind.source ?? "resource"} where id = $1`,
    [canonical],
    `read_${kind.source ?? "resource"}`,
  );
  const visible = row?.kind === kind.kind && sees(principal, kind, row.project);
  if (!visible) throw notFound(kind, id);
  return toResource(row);
}

/** Those of the ids that there are and that the principal sees, in no order. */
export async function readResources(
  on: Readable,
  principal: Principal,
  kind: AnyDefinition,
  ids: readonly string[],
): Promise<Resource[]> {
  const rows = await on.read<ResourceRow>(
    `select ${resourceColumns} from ${kind.source ?? "resource"} where id = any($1)`,
    [ids],
    `read_many_${kind.source ?? "resource"}`,
  );
  return rows.filter((row) => row.kind === kind.kind && sees(principal, kind, row.project)).map(toResource);
}

export function notFound(kind: AnyDefinition, id: string): Fault {
  const name = kind.kind.replaceAll("_", " ");
  return new Fault("notFound", `there is no ${name} with the id ${id.slice(0, 80)}`, {
    reason: `${kind.kind.toUpperCase()}_NOT_FOUND`,
    detail: { id: id.slice(0, 80), kind: kind.kind },
  });
}

/** One page in creation order, and how many match in all. */
export async function listResources(
  on: Queryable,
  principal: Principal,
  kind: AnyDefinition,
  query: ListQuery,
): Promise<ListPage> {
  const { page, total } = listStatements(principal, kind, query);
  const rows = await on.query<ListRow>(page.text, page.values, page.name);
  const items = rows.slice(0, query.limit);
  const last = items.at(-1);
  const offset = query.offset ?? 0;
  // A page that ends the list, and whose beginning is known, has told how many there are.
  const told = query.cursor === undefined && rows.length <= query.limit && (rows.length > 0 || offset === 0);
  const [count] = told
    ? [{ total: offset + rows.length }]
    : await on.query<{ total: number }>(total.text, total.values, total.name);
  return {
    items: items.map(toResource),
    total: count?.total ?? 0,
    nextCursor: rows.length > query.limit && last ? encodeCursor(last.cursor_at, last.id) : undefined,
  };
}

export interface Statement {
  readonly text: string;
  readonly values: readonly unknown[];
  /** Undefined: not worth preparing. */
  readonly name: string | undefined;
}

type ListRow = ResourceRow & { readonly cursor_at: string };

/** What a list asks the database: for the page, with one row more where there is one, and for how many match in all. */
export function listStatements(
  principal: Principal,
  kind: AnyDefinition,
  query: ListQuery,
): { readonly page: Statement; readonly total: Statement } {
  const values: unknown[] = [];
  const bind = (value: unknown) => `$${String(values.push(value))}`;
  const source = kind.source ?? "resource";
  const where = [`kind = ${bind(kind.kind)}`];
  const projects = visibleProjects(principal, kind);
  // By equality where there is only one: the index then gives the rows in their order.
  if (projects?.length === 1) where.push(`project = ${bind(projects[0])}`);
  else if (projects) where.push(`project = any(${bind(projects)})`);
  const conditions = where.length;
  if (query.phases && query.phases.length > 0) where.push(`phase = any(${bind(query.phases)})`);
  if (query.name !== undefined) where.push(`name = ${bind(query.name)}`);
  if (query.labels) where.push(`labels @> ${bind(JSON.stringify(query.labels))}::jsonb`);
  if (query.labelKey !== undefined) where.push(`labels ? ${bind(query.labelKey)}`);
  if (query.search !== undefined) where.push(searchClause(kind, query.search, bind));
  if (query.from) where.push(`(project = ${bind(rootProject)}) = ${bind(query.from === "shared")}`);
  for (const [name, value] of Object.entries(query.filters ?? {}))
    where.push(filterClause(kind, name, value, bind));
  const matching = `from ${source} where ${where.join(" and ")}`;
  // With conditions of the caller's own there are too many forms to keep each.
  const name = where.length > conditions ? undefined : `${source}_${String(projects?.length ?? "all")}`;
  const total = {
    text: `select count(*) as total ${matching}`,
    values: [...values],
    name: name && `count_${name}`,
  };

  const after = query.cursor === undefined ? undefined : decodeCursor(query.cursor);
  const beyond = after ? ` and (created_at, id) > (${bind(after.at)}::timestamptz, ${bind(after.id)})` : "";
  const limit = bind(query.limit + 1);
  const offset = query.offset === undefined ? "" : ` offset ${bind(query.offset)}`;
  const page = {
    text: `select ${resourceColumns}, created_at::text as cursor_at ${matching}${beyond} order by created_at, id limit ${limit}${offset}`,
    values,
    name: name && `list_${name}${after ? "_after" : ""}${offset === "" ? "" : "_offset"}`,
  };
  return { page, total };
}

function filterClause(
  kind: AnyDefinition,
  name: string,
  value: string,
  bind: (value: unknown) => string,
): string {
  const filter = kind.filters[name];
  if (!filter) {
    throw invalidField(name, `is not a filter of ${kind.plural}`, { filters: Object.keys(kind.filters) });
  }
  const [column, field] = filter.path;
  if (field === undefined) return `${column} = ${bind(value)}`;
  if (filter.loose)
    return `replace(${column} ->> ${bind(field)}, '.', '-') = ${bind(value.replaceAll(".", "-"))}`;
  return `${column} ->> ${bind(field)} = ${bind(value)}`;
}

/** A part of a name in any case, or of an id with any of the kind's prefixes. */
function searchClause({ idPrefixes }: AnyDefinition, text: string, bind: (value: unknown) => string): string {
  const prefix = idPrefixes.find((known) => text.startsWith(`${known}-`));
  const id = prefix === undefined ? text : `${idPrefixes[0]}${text.slice(prefix.length)}`;
  return `(strpos(lower(name), lower(${bind(text)})) > 0 or strpos(id, ${bind(id)}) > 0)`;
}

function encodeCursor(at: string, id: string): string {
  return Buffer.from(JSON.stringify([at, id])).toString("base64url");
}

function decodeCursor(cursor: string): { at: string; id: string } {
  try {
    const [at, id] = JSON.parse(Buffer.from(cursor, "base64url").toString()) as unknown[];
    if (typeof at === "string" && typeof id === "string" && isTimestamp(at)) return { at, id };
  } catch {
    // told below, as any other malformed cursor
  }
  throw invalidField("cursor", "is not a cursor of this list");
}

const timestamp = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d{1,6})?)[+-](?:0\d|1[0-4])(?::[0-5]\d)?$/;

/** What PostgreSQL would refuse must not reach it: 30 February is no cursor either. */
function isTimestamp(text: string): boolean {
  const [, day = "", time = ""] = timestamp.exec(text) ?? [];
  const parsed = new Date(`${day}T${time}Z`);
  return !Number.isNaN(parsed.getTime()) && parsed.toISOString().startsWith(day);
}

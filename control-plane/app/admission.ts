/** What is checked against other resources before one is stored. */
import { Fault } from "#kernel/fault.ts";
import { resourceColumns, toResource, type ResourceRow } from "../engine/rows.ts";
import { kinds } from "../resources/kinds.ts";
import type { AnyDefinition, Reference, Resource, Site } from "../resources/definition.ts";
import { normaliseImageName } from "../resources/image/image.resource.ts";
import type { Queryable } from "../store/database.ts";
import { rootProject } from "./authorisation.ts";
import { invalidField } from "./validation.ts";

const requestKinds = kinds.flatMap(({ kind, requestOf }) => (requestOf === undefined ? [] : [kind]));

/**
 * Finds what the spec refers to, by id, name or alias.
 * @param previous at a change: what it named before is not looked for again
 */
export async function resolveReferences(
  on: Queryable,
  project: string,
  kind: AnyDefinition,
  spec: Readonly<Record<string, unknown>>,
  previous?: Readonly<Record<string, unknown>>,
): Promise<Record<string, Resource>> {
  const found: Record<string, Resource> = {};
  for (const [name, reference] of Object.entries(kind.references)) {
    const { through } = reference;
    const wanted = through ? found[through[0]]?.refs[through[1]] : referredIn(spec, reference);
    if (typeof wanted !== "string") continue;
    if (!through && previous && wanted === referredIn(previous, reference)) continue;
    const projects = reference.own ? [project] : [project, rootProject];
    const resource = await findByName(on, projects, reference.kind, wanted);
    if (reference.takes && !(resource && reference.takes(resource))) continue;
    if (!resource) {
      throw invalidField(
        `spec.${[reference.field, reference.within].filter((name) => name !== undefined).join(".")}`,
        `there is no ${reference.kind.replaceAll("_", " ")} called ${JSON.stringify(wanted.slice(0, 80))}`,
        {
          known: await knownNames(on, projects, reference.kind),
        },
      );
    }
    found[name] = resource;
  }
  return found;
}

/** The id, name or alias that the spec gives; undefined where it gives none. */
function referredIn(spec: Readonly<Record<string, unknown>>, { field, within }: Reference): unknown {
  const value = spec[field];
  if (within === undefined || typeof value !== "object" || value === null) return value;
  return (value as Readonly<Record<string, unknown>>)[within];
}

/** Kinds that others may refer to without keeping it. */
const weakKinds = (kind: string) =>
  kinds.flatMap((each) =>
    Object.values(each.references).some((reference) => reference.weak && reference.kind === kind)
      ? [each.kind]
      : [],
  );

async function findByName(
  on: Queryable,
  projects: readonly string[],
  kind: string,
  wanted: string,
): Promise<Resource | undefined> {
  const [row] = await on.query<ResourceRow>(
    `select ${resourceColumns} from resource
     where kind = $1 and project = any($2) and deleting_at is null
       and (id = $3 or name = $3 or desired -> 'aliases' ? $4
         or (desired ? 'aliases' and regexp_replace(lower(name), '[^a-z0-9]+', '-', 'g') = $4))
     order by id = $3 desc, name = $3 desc, project = $5 desc, created_at limit 1`,
    [kind, projects, wanted, normaliseImageName(wanted), projects[0]],
    "reference_find",
  );
  return row && toResource(row);
}

async function knownNames(on: Queryable, projects: readonly string[], kind: string): Promise<string[]> {
  const rows = await on.query<{ name: string }>(
    `select name from resource where kind = $1 and project = any($2) and deleting_at is null
     order by phase = 'available' desc, name limit 50`,
    [kind, projects],
  );
  return rows.map(({ name }) => name);
}

/** Refuses a provider and region that no host is in. */
export async function checkSite(on: Queryable, site: Site): Promise<void> {
  if (site.provider === null && site.region === null) return;
  const known = await on.query<{ provider: string; region: string }>(
    `select distinct desired ->> 'provider' as provider, desired ->> 'region' as region
     from resource where kind = 'host' and deleting_at is null order by 1, 2`,
  );
  const matches = known.some(
    ({ provider, region }) =>
      (site.provider === null || site.provider === provider) &&
      (site.region === null || site.region === region),
  );
  if (matches) return;
  const providers = known.map(({ provider }) => provider);
  const field =
    site.provider !== null && !providers.includes(site.provider) ? "spec.provider" : "spec.region";
  throw invalidField(field, "no host is there", {
    known: known.map(({ provider, region }) => ({ provider, region })),
  });
}

/** Refuses to take away what others stand on. Requests that ended, and those to itself, stand on nothing. */
export async function checkUnused(on: Queryable, resource: Resource): Promise<void> {
  const users = await on.query<{ id: string }>(
    // Each kind of use by its own index, before the order: ordered first, every resource there is would be read.
    `with users as materialized (
       select id, kind, request_of from resource where $2 = 'host' and host_id = $1
       union all
       select id, kind, request_of from resource where $2 = 'project' and project = $1 and id <> $1
       union all
       select id, kind, request_of from resource
       where refs @> jsonb_build_object($2::text, $1::text) and kind <> all($4))
     select distinct id from users where kind <> all($3) or (request_of is not null and request_of <> $1)
     order by id limit 20`,
    [resource.id, resource.kind, requestKinds, weakKinds(resource.kind)],
    "resource_users",
  );
  if (users.length === 0) return;
  throw new Fault("conflict", `this ${resource.kind} is in use`, {
    reason: "IN_USE",
    detail: { used_by: users.map(({ id }) => id) },
  });
}

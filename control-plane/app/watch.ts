/** Following resources: events say which to read again, reading says how they are. */
import type { Ctx } from "#kernel/ctx.ts";
import { Doorbell } from "#kernel/doorbell.ts";
import { isFault } from "#kernel/fault.ts";
import type { EventFeed, ResourceEvent } from "../engine/events.ts";
import type { AnyDefinition, Resource } from "../resources/definition.ts";
import type { Database } from "../store/database.ts";
import type { WatchQuery, WatchEvent } from "./resource-api.ts";
import { listResources, readResource, readResources } from "./resource-queries.ts";

export interface WatchDependencies {
  readonly database: Database;
  readonly events: EventFeed;
}

/** Waiting does not rely on events alone. */
const lookAgainMs = 1_000;
const pageSize = 1000;

/** See `ResourceApi.wait`. */
export async function waitUntilSettled(
  { database, events }: WatchDependencies,
  ctx: Ctx,
  kind: AnyDefinition,
  id: string,
  timeoutMs: number,
): Promise<Resource | undefined> {
  const until = ctx.now() + timeoutMs;
  const changes = new Changes(events, (event) => event.resourceId.endsWith(id.slice(-20)));
  using _subscription = changes;
  for (;;) {
    const resource = await findResource(database, ctx, kind, id);
    ctx.signal.throwIfAborted(); // nobody listens any more
    const leftMs = until - ctx.now();
    if (!resource || leftMs <= 0 || isSettled(kind, resource)) return resource;
    await changes.next(Math.min(leftMs, lookAgainMs), ctx.signal);
  }
}

/** Nothing more will happen to it by itself. */
export function isSettled(kind: AnyDefinition, resource: Resource): boolean {
  if (resource.deletingAt) return false;
  if (!kind.reconciled) return true;
  const { problem, generation } = resource;
  if (problem?.stuck && problem.generation >= generation) return true;
  return resource.observedGeneration >= generation && kind.settled.includes(resource.phase);
}

/** See `ResourceApi.watch`. Ends when the context's signal aborts. */
export async function* watchResources(
  { database, events }: WatchDependencies,
  ctx: Ctx,
  kind: AnyDefinition,
  query: WatchQuery,
): AsyncGenerator<WatchEvent> {
  const { id, ...listQuery } = query;
  const changes = new Changes(
    events,
    (event) => event.kind === kind.kind && (id === undefined || event.resourceId.endsWith(id.slice(-20))),
  );
  using _subscription = changes;
  const shown = new Map<string, number>();
  for await (const resource of readAll(database, ctx, kind, listQuery, id)) {
    shown.set(resource.id, resource.revision);
    yield { type: "present", resource };
  }
  yield { type: "synced" };
  while (!ctx.signal.aborted) {
    const dirty = await changes.next(lookAgainMs, ctx.signal);
    const found = dirty.length > 0 ? await readResources(database, ctx.principal, kind, dirty) : [];
    const byId = new Map(found.map((resource) => [resource.id, resource]));
    for (const changed of dirty) {
      const resource = byId.get(changed);
      const matches = resource && matchesQuery(kind, resource, listQuery);
      if (matches) {
        if (shown.get(changed) === resource.revision) continue;
        shown.set(changed, resource.revision);
        yield { type: "changed", resource };
      } else if (shown.delete(changed)) {
        yield { type: "removed", id: changed };
      }
    }
  }
}

async function* readAll(
  database: Database,
  ctx: Ctx,
  kind: AnyDefinition,
  query: WatchQuery,
  id: string | undefined,
): AsyncGenerator<Resource> {
  if (id !== undefined) {
    yield await readResource(database, ctx.principal, kind, id);
    return;
  }
  let cursor: string | undefined;
  do {
    const page = await listResources(database, ctx.principal, kind, {
      ...query,
      limit: pageSize,
      ...(cursor === undefined ? {} : { cursor }),
    });
    yield* page.items;
    cursor = page.nextCursor;
  } while (cursor !== undefined);
}

async function findResource(
  database: Database,
  ctx: Ctx,
  kind: AnyDefinition,
  id: string,
): Promise<Resource | undefined> {
  try {
    return await readResource(database, ctx.principal, kind, id);
  } catch (error) {
    if (isFault(error, "notFound")) return undefined;
    throw error;
  }
}

/** The list's conditions, on one resource. */
function matchesQuery(kind: AnyDefinition, resource: Resource, query: WatchQuery): boolean {
  const filters = Object.entries(query.filters ?? {});
  return (
    (!query.phases || query.phases.length === 0 || query.phases.includes(resource.phase)) &&
    (query.name === undefined || query.name === resource.name) &&
    Object.entries(query.labels ?? {}).every(([key, value]) => resource.labels[key] === value) &&
    filters.every(([name, value]) => {
      const { path, loose } = kind.filters[name] ?? { path: ["labels", name] as const };
      const [column, field] = path;
      if (field === undefined) return resource[column] === value;
      const part = resource[column] as Readonly<Record<string, unknown>> | undefined;
      const found = part?.[field];
      if (loose && typeof found === "string")
        return found.replaceAll(".", "-") === value.replaceAll(".", "-");
      return found === value;
    })
  );
}

/** Ids that events named since the last look. */
class Changes implements Disposable {
  readonly #dirty = new Set<string>();
  readonly #subscription: Disposable;
  readonly #bell = new Doorbell();

  constructor(events: EventFeed, concerns: (event: ResourceEvent) => boolean) {
    this.#subscription = events.subscribe((batch) => {
      for (const event of batch) if (concerns(event)) this.#dirty.add(event.resourceId);
      if (this.#dirty.size > 0) this.#bell.ring();
    });
  }

  /** Waits for the first, at most `ms`; empty when none came or the signal aborted. */
  async next(ms: number, signal: AbortSignal): Promise<string[]> {
    if (!signal.aborted) {
      const stop = () => this.#bell.ring();
      signal.addEventListener("abort", stop, { once: true });
      await this.#bell.rest(ms);
      signal.removeEventListener("abort", stop);
    }
    this.#bell.hear();
    const ids = [...this.#dirty];
    this.#dirty.clear();
    return ids;
  }

  [Symbol.dispose](): void {
    this.#subscription[Symbol.dispose]();
  }
}

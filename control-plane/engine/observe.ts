/**
 * What hosts say of their machines, stored: an incarnation changes only when the agent's sequence
 * number is higher than the one known, so reports may come twice, late and in any order.
 */
import type { Logger } from "#kernel/log.ts";
import type { AnyDefinition } from "../resources/definition.ts";
import type { Tx } from "../store/database.ts";
import type { AnyController, MachineObservation } from "./controller.ts";
import { postChange } from "./rows.ts";
import { lockWithIncarnations, type Observed } from "./view.ts";

export interface KindRegistry {
  definition(kind: string): AnyDefinition;
  controller(kind: string): AnyController | undefined;
}

/**
 * Stores what `hostId` says of machines that are known, and recomputes their resources. The caller
 * holds the work rows of these ids (lock order).
 * @returns those whose incarnation really changed, as they are now
 */
export async function observeMachines(
  tx: Tx,
  registry: KindRegistry,
  hostId: string,
  machines: readonly MachineObservation[],
  log: Logger,
): Promise<readonly Observed[]> {
  // Looked up one by one, because the planner would rather scan all resources for the few that came in.
  const stored = tx.query<{ id: string }>(
    `with incoming as (
       select * from jsonb_to_recordset($2) as x(id text, seq bigint, epoch bigint, accepted_generation bigint,
         generation bigint, state text, observed jsonb))
     insert into incarnation (resource_id, host_id, seq, epoch, accepted_generation, generation, state, observed)
     select i.id, $1, i.seq, i.epoch, i.accepted_generation, i.generation, i.state, i.observed
     from incoming i where (select true from resource r where r.id = i.id) order by i.id
     on conflict (resource_id, host_id) do update set seq = excluded.seq, epoch = excluded.epoch,
       accepted_generation = excluded.accepted_generation, generation = excluded.generation,
       state = excluded.state, observed = excluded.observed, updated_at = clock_timestamp()
     where incarnation.seq < excluded.seq
     returning resource_id as id`,
    [hostId, JSON.stringify(machines)],
    "incarnation_upsert",
  );
  // Asked for before it is known which have changed: mostly it is all, and both are answered at once.
  const known = lockWithIncarnations(
    tx,
    machines.map(({ id }) => id),
  );
  const [rows, observed] = await Promise.all([stored, known]);
  const changed = new Set(rows.map(({ id }) => id));
  return recompute(
    tx,
    registry,
    observed.filter(({ resource }) => changed.has(resource.id)),
    log,
  );
}

/** Derives `observed` and the phase of each resource from its incarnations again. */
export async function recomputeObserved(
  tx: Tx,
  registry: KindRegistry,
  ids: readonly string[],
  log: Logger,
): Promise<void> {
  if (ids.length > 0) recompute(tx, registry, await lockWithIncarnations(tx, ids), log);
}

function recompute(
  tx: Tx,
  registry: KindRegistry,
  known: readonly Observed[],
  log: Logger,
): readonly Observed[] {
  return known.map(({ resource: before, incarnations, requests }) => {
    const controller = registry.controller(before.kind);
    const nextRequests = requests.map((request) => {
      const observed = controller?.deriveRequest?.(request, incarnations);
      if (observed === undefined || same(request.observed, observed)) return request;
      return postChange(tx, registry.definition(request.kind), request, { observed }, log);
    });
    const derived = controller?.deriveObserved?.(before, incarnations, requests);
    const observed = derived?.observed;
    const observedGeneration = derived?.generation ?? before.observedGeneration;
    const isSame = same(before.observed, observed) && before.observedGeneration === observedGeneration;
    const resource = isSame
      ? before
      : postChange(tx, registry.definition(before.kind), before, { observed, observedGeneration }, log);
    return { resource, incarnations, requests: nextRequests };
  });
}

function same(a: unknown, b: unknown): boolean {
  return canonical(a) === canonical(b);
}

/** jsonb gives keys back in its own order. */
function canonical(value: unknown): string | undefined {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}

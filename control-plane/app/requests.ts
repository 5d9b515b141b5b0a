/** Requests: resources that another one's pass carries out (see `requestOf` in the definition). */
import { Fault } from "#kernel/fault.ts";
import { insertResource, lockResource, type NewResource } from "../engine/rows.ts";
import { enqueue } from "../engine/work.ts";
import type { AnyDefinition, Resource } from "../resources/definition.ts";
import type { Tx } from "../store/database.ts";

/** Stores a request and has its target looked at. Throws `conflict` when the target can take none now. */
export async function openRequest(
  tx: Tx,
  kind: AnyDefinition,
  input: NewResource,
  target: Resource,
): Promise<Resource> {
  // The work row first: whoever opens, changes or ends a request of this target holds it.
  await enqueue(tx, { key: target.id, kind: target.kind, fresh: true });
  const [open] = await tx.query<{ id: string }>("select id from resource where request_of = $1 limit 1", [
    target.id,
  ]);
  if (open) {
    throw new Fault("conflict", `there is already a ${kind.kind} of it under way`, {
      reason: "REQUEST_UNDER_WAY",
      detail: { id: open.id },
    });
  }
  const now = await lockResource(tx, target.id);
  if (!now || now.deletingAt || !kind.requestWhen?.includes(now.phase)) {
    const phase = now?.phase ?? "deleted";
    throw new Fault("conflict", `a ${kind.kind} is not possible while it is ${phase}`, {
      reason: "PHASE_CONFLICT",
      detail: { phase, allowed: kind.requestWhen ?? [] },
    });
  }
  await checkHostAble(tx, kind, input, now);
  const request = await insertResource(tx, kind, input);
  tx.post("update resource set request_of = $2 where id = $1", [request.id, target.id], "request_open");
  return request;
}

/** Throws `conflict` when the driver of the target's host cannot do what is asked. */
async function checkHostAble(
  tx: Tx,
  kind: AnyDefinition,
  input: NewResource,
  target: Resource,
): Promise<void> {
  const needs = kind.requestNeeds?.(input.desired, target);
  if (!needs) return;
  const { capability, reason } = needs;
  const [host] = await tx.query<{ able: boolean }>(
    "select observed -> 'capabilities' ? $2 as able from resource where id = $1",
    [target.hostId, capability],
  );
  if (host?.able) return;
  throw new Fault("conflict", `the host's driver has no ${capability}`, { reason, detail: { capability } });
}

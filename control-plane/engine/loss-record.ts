/** What is written down of a host that is lost, whoever says so. */
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { AnyDefinition } from "../resources/definition.ts";
import type { HostStatus } from "../resources/host/host.resource.ts";
import type { Tx } from "../store/database.ts";
import { changeResource, lockResource } from "./rows.ts";
import { urgentPriority } from "./work.ts";

/** Shows in the host's status that it is not heard of; undefined: it is. */
export async function showSilence(
  tx: Tx,
  definition: AnyDefinition,
  hostId: string,
  silence: HostStatus["silence"],
  log: Logger,
): Promise<void> {
  const host = await lockResource(tx, hostId);
  const observed = host?.observed as HostStatus | undefined;
  if (!host || !observed) return;
  const { silence: before, ...rest } = observed;
  const change = silence && { ...silence, since: before?.since ?? silence.since };
  await changeResource(
    tx,
    definition,
    host,
    { observed: { ...rest, ...(change && { silence: change }) } },
    log,
  );
}

/** All that is on the host is looked at, by whichever replica; first what may not wait for it. */
export async function wakeAll(tx: Tx, hostId: string): Promise<void> {
  await tx.query(
    `update work w set host_id = null, run_at = now(), dirty_seq = dirty_seq + 1,
       priority = case when r.desired ->> 'on_host_loss' = 'restart_elsewhere' then $2 else priority end
     from resource r where r.host_id = $1 and r.kind = 'instance' and w.key = r.id`,
    [hostId, urgentPriority],
  );
}

/**
 * Takes an operator's word for it that a host is dead, which outranks what others saw of it and what it had agreed to.
 * Throws `conflict` HOST_HEARD for one that was heard within `quietMs`: its lease may hold. A clock that was set back
 * makes it wait, never hurry.
 */
export async function declareLost(
  tx: Tx,
  definition: AnyDefinition,
  hostId: string,
  { quietMs, now, log }: { readonly quietMs: number; readonly now: number; readonly log: Logger },
): Promise<void> {
  const [declared] = await tx.query<{
    since: Date;
    sighting: NonNullable<HostStatus["silence"]>["sighting"];
  }>(
    `update host_session set lost_certain = true, lost_at = coalesce(lost_at, now()), sighting = coalesce(sighting, 'none')
     where host_id = $1 and last_seen < now() - $2 * interval '1 millisecond' returning last_seen as since, sighting`,
    [hostId, quietMs],
  );
  if (!declared) {
    throw new Fault("conflict", "the host has been heard of within its lease, or never: it is not dead", {
      reason: "HOST_HEARD",
    });
  }
  const message =
    "an operator has declared it dead: what may run elsewhere does, and what it still has of that is removed when it is back";
  const since = new Date(Math.min(now, declared.since.getTime())).toISOString();
  await showSilence(tx, definition, hostId, { since, sighting: declared.sighting, lost: true, message }, log);
  await wakeAll(tx, hostId);
}

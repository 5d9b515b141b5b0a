import { Fault } from "#kernel/fault.ts";
import type { Tx } from "../store/database.ts";
import type { Reserved } from "./controller.ts";

interface Room {
  readonly cpus: number;
  readonly memory_bytes: number;
  readonly disk_bytes: number;
}

/**
 * Takes a promise of capacity on a host, or changes the one that is there. The host's capacity row is
 * locked first and usage is added up in a second statement, whose snapshot is then newer than every
 * reservation committed before. Throws `exhausted` NO_CAPACITY; shrinking always succeeds.
 */
export async function reserve(tx: Tx, resourceId: string, request: Reserved): Promise<void> {
  const [capacity] = await tx.query<Room>(
    "select cpus, memory_bytes, disk_bytes from host_capacity where host_id = $1 for update",
    [request.hostId],
    "capacity_lock",
  );
  const [taken] = await tx.query<Room & { own: Room | null }>(
    `select coalesce(sum(cpus) filter (where resource_id <> $2), 0)::bigint as cpus,
       coalesce(sum(memory_bytes) filter (where resource_id <> $2), 0)::bigint as memory_bytes,
       coalesce(sum(disk_bytes) filter (where resource_id <> $2), 0)::bigint as disk_bytes,
       (select jsonb_build_object('cpus', cpus, 'memory_bytes', memory_bytes, 'disk_bytes', disk_bytes)
        from reservation where host_id = $1 and resource_id = $2) as own
     from reservation where host_id = $1`,
    [request.hostId, resourceId],
    "capacity_used",
  );
  const wanted: Room = {
    cpus: request.cpus,
    memory_bytes: request.memoryBytes,
    disk_bytes: request.diskBytes,
  };
  const short = dimensions.filter((dimension) => {
    const grows = wanted[dimension] > (taken?.own?.[dimension] ?? 0);
    const free = (capacity?.[dimension] ?? 0) - (taken?.[dimension] ?? 0);
    return grows && wanted[dimension] > free;
  });
  if (short.length > 0) {
    throw new Fault("exhausted", `the host has too little ${short.map(spoken).join(" and ")} left`, {
      reason: "NO_CAPACITY",
      detail: { short },
    });
  }
  await tx.query(
    `insert into reservation (resource_id, host_id, cpus, memory_bytes, disk_bytes) values ($1, $2, $3, $4, $5)
     on conflict (resource_id, host_id) do update
       set cpus = excluded.cpus, memory_bytes = excluded.memory_bytes, disk_bytes = excluded.disk_bytes`,
    [resourceId, request.hostId, wanted.cpus, wanted.memory_bytes, wanted.disk_bytes],
    "reservation_upsert",
  );
}

const dimensions = ["cpus", "memory_bytes", "disk_bytes"] as const;

function spoken(dimension: (typeof dimensions)[number]): string {
  return { cpus: "CPU", memory_bytes: "memory", disk_bytes: "disk" }[dimension];
}

/** Gives a promise back; none is fine. */
export async function release(tx: Tx, resourceId: string, hostId: string): Promise<void> {
  await tx.query(
    "delete from reservation where resource_id = $1 and host_id = $2",
    [resourceId, hostId],
    "reservation_delete",
  );
}

import { Fault } from "#kernel/fault.ts";
import type { Queryable, Tx } from "../store/database.ts";
import type { Reserved } from "./controller.ts";
import type { Claim } from "./work.ts";

type Dimension = "cpus" | "memory_bytes" | "disk_bytes" | "gpus" | "container_gpus" | "group";

/**
 * Takes a promise of capacity on a host, or changes the one that is there. Throws `exhausted` NO_CAPACITY;
 * shrinking always succeeds.
 */
export async function reserve(tx: Tx, resourceId: string, request: Reserved): Promise<void> {
  const { hostId, cpus, memoryBytes, diskBytes } = request;
  const [answer] = await tx.query<{ short: Dimension[] }>(
    "select reserve_capacity($1, $2, $3, $4, $5) as short",
    [resourceId, hostId, cpus, memoryBytes, diskBytes],
    "capacity_reserve",
  );
  refuseShort(answer?.short);
}

/**
 * A reservation by itself, ahead of the transaction that puts the resource on the host, and committed without
 * waiting for the disk: whatever is committed durably later makes this durable too, for the log is one.
 */
export async function promise(on: Queryable, claim: Claim, request: Reserved): Promise<void> {
  const { hostId, cpus, memoryBytes, diskBytes } = request;
  const [answer] = await on.query<{ short: Dimension[] }>(
    "select promise_capacity($1, $2, $3, $4, $5, $6) as short",
    [claim.key, claim.epoch, hostId, cpus, memoryBytes, diskBytes],
    "capacity_promise",
  );
  refuseShort(answer?.short);
}

function refuseShort(short: readonly Dimension[] = []): void {
  if (short.length === 0) return;
  const missing = short.filter((dimension) => dimension !== "group").map(spoken);
  const message =
    missing.length > 0 ? `has too little ${missing.join(" and ")} left` : "is not for its group";
  throw new Fault("exhausted", `the host ${message}`, {
    reason: "NO_CAPACITY",
    detail: { short },
  });
}

function spoken(dimension: Exclude<Dimension, "group">): string {
  const words = {
    cpus: "CPU",
    memory_bytes: "memory",
    disk_bytes: "disk",
    gpus: "GPUs",
    container_gpus: "GPUs",
  };
  return words[dimension];
}

/** Gives a promise back; none is fine. */
export function release(tx: Tx, resourceId: string, hostId: string): void {
  tx.post(
    "delete from reservation where resource_id = $1 and host_id = $2",
    [resourceId, hostId],
    "reservation_delete",
  );
}

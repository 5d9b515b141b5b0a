import type { Scorer } from "../policy.ts";
import type { HostSnapshot, PlacementRequest } from "../snapshot.ts";

/**
 * How full the host is with the request on it, as the mean of its dimensions: best fit. Filling hosts
 * one after the other leaves whole ones free for what is large.
 */
export const packing: Scorer = {
  name: "packing",
  scope: "load",
  fit: (request) => ({
    score: (host) => fullness(host, request),
    measure: (host) => `${String(Math.round(fullness(host, request) * 100))} % full`,
    amount: (host) => ({ value: fullness(host, request), unit: "" }),
  }),
};

function fullness({ capacity, used }: HostSnapshot, request: PlacementRequest): number {
  const cpus = share(used.cpus + request.cpus, capacity.cpus);
  const memory = share(used.memoryBytes + request.memoryBytes, capacity.memoryBytes);
  const disk = share(used.diskBytes + request.diskBytes, capacity.diskBytes);
  return (cpus + memory + disk) / 3;
}

/** At most 1: a dimension that is overdrawn, or that the host has nothing of, is full. */
function share(used: number, capacity: number): number {
  return used < capacity ? used / capacity : 1;
}

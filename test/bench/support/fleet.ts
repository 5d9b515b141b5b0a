import type { HostSnapshot, PlacementRequest } from "#cp/scheduler/snapshot.ts";

const GiB = 1024 ** 3;

/** A fleet as small providers, shops and rented sites make it up: by seed, the same every time. */
export interface FleetShape {
  readonly hosts: number;
  readonly instances: number;
  /** Places, each of one provider and with a price of its own. */
  readonly sites: number;
}

/** What is usual to ask for; the small ones most. */
export const sizes = [
  { cpus: 1, memoryBytes: 1 * GiB, diskBytes: 10 * GiB },
  { cpus: 1, memoryBytes: 2 * GiB, diskBytes: 20 * GiB },
  { cpus: 2, memoryBytes: 4 * GiB, diskBytes: 40 * GiB },
  { cpus: 4, memoryBytes: 8 * GiB, diskBytes: 80 * GiB },
] as const;

const hardware = [
  { cpus: 64, memoryBytes: 48 * GiB, diskBytes: 2000 * GiB },
  { cpus: 128, memoryBytes: 96 * GiB, diskBytes: 4000 * GiB },
  { cpus: 256, memoryBytes: 192 * GiB, diskBytes: 8000 * GiB },
] as const;

/** Numbers from 0 to 1 that follow from the seed (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function pick<T>(from: readonly T[], random: () => number): T {
  const picked = from[Math.floor(random() * from.length)];
  if (picked === undefined) throw new RangeError("nothing to pick from");
  return picked;
}

/** Where somebody may be. */
function anywhere(random: () => number) {
  return { latitude: random() * 130 - 60, longitude: random() * 360 - 180 };
}

/** Places whose users ask again and again, as those of a cloud do. */
const userPlaces = 40;

/** The hosts, with the instances on them counted as used; every hundredth is away, as many are cordoned. */
export function randomFleet({ hosts, instances, sites }: FleetShape, random: () => number): HostSnapshot[] {
  const places = Array.from({ length: sites }, (_, index) => ({
    provider: `provider-${index % 12}`,
    region: `region-${index % 120}`,
    zone: `site-${index}`,
    location: anywhere(random),
    prices: {
      cpuPerHour: 0.02 + random() * 0.08,
      memoryGibPerHour: 0.004 + random() * 0.01,
      currency: "USD",
    },
    architecture: random() < 0.1 ? "aarch64" : "x86_64",
  }));
  const fleet = Array.from({ length: hosts }, (_, index) => ({
    id: `host-${index.toString(36).padStart(20, "0")}`,
    ...(places[index % sites] ?? pick(places, random)),
    cpuBaseline: "x86-64-v3",
    driver: "qemu",
    acceleration: "kvm",
    capacity: pick(hardware, random),
    used: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
    online: random() > 0.01,
    cordoned: random() < 0.01,
    capabilities: [],
    machineTypes: [],
    guestCpuModel: "",
    listenAddress: "",
  }));
  for (let placed = 0; placed < instances;) {
    const host = pick(fleet, random);
    const { cpus, memoryBytes, diskBytes } = pick(sizes, random);
    const { used, capacity } = host;
    if (used.memoryBytes + memoryBytes > capacity.memoryBytes || used.cpus + cpus > capacity.cpus) continue;
    host.used = {
      cpus: used.cpus + cpus,
      memoryBytes: used.memoryBytes + memoryBytes,
      diskBytes: used.diskBytes + diskBytes,
    };
    placed++;
  }
  return fleet;
}

/** Requests as they come: most leave the place to the scheduler, some say where their users are. */
export function randomRequests(random: () => number): () => PlacementRequest {
  const near = Array.from({ length: userPlaces }, () => anywhere(random));
  return () => ({
    ...pick(sizes, random),
    imageArchitecture: random() < 0.05 ? "aarch64" : "x86_64",
    ...(random() < 0.3 && { near: pick(near, random) }),
    ...(random() < 0.2 && { provider: `provider-${Math.floor(random() * 12)}` }),
  });
}

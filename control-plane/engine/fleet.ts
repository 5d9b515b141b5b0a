/**
 * The scheduler's view of all hosts, kept for a moment: choosing is optimistic, reserving is not, so a
 * snapshot that is a little old costs a second try and never correctness.
 */
import type { Json } from "#kernel/fault.ts";
import { summarise } from "../scheduler/explain.ts";
import { place, type Placement } from "../scheduler/place.ts";
import type { Policy } from "../scheduler/policy.ts";
import type { HostSnapshot, PlacementRequest } from "../scheduler/snapshot.ts";
import type { HostSpec, HostStatus } from "../resources/host/host.resource.ts";
import type { Queryable } from "../store/database.ts";

export interface PlaceRequest extends PlacementRequest {
  /** Orders hosts of equal score. */
  readonly seed: string;
}
export type PlaceResult =
  | {
      /** Best first. */
      readonly hosts: readonly HostSnapshot[];
      readonly explanation: Json;
    }
  | {
      readonly unplaceable: Json;
      /** Why no host will do, in a sentence. */
      readonly why: string;
      /** A host that cannot be reached now would do. */
      readonly offlineWouldDo: boolean;
    };

export interface Fleet {
  /** All hosts as they were a moment ago. */
  hosts(): Promise<readonly HostSnapshot[]>;
  choose(request: PlaceRequest): Promise<PlaceResult>;
}

const freshForMs = 500;

interface HostRow {
  readonly id: string;
  readonly desired: HostSpec;
  readonly observed: HostStatus | null;
  readonly deleting: boolean;
  readonly cpus: number | null;
  readonly memory_bytes: number | null;
  readonly disk_bytes: number | null;
  readonly used_cpus: number;
  readonly used_memory: number;
  readonly used_disk: number;
}

export class CachedFleet implements Fleet {
  readonly #database: Queryable;
  readonly #policy: Policy;
  readonly #now: () => number;
  #taken: { readonly at: number; readonly hosts: Promise<readonly HostSnapshot[]> } | undefined;

  constructor(database: Queryable, policy: Policy, now: () => number) {
    this.#database = database;
    this.#policy = policy;
    this.#now = now;
  }

  async choose(request: PlaceRequest): Promise<PlaceResult> {
    const fresh = this.#taken !== undefined && this.#now() - this.#taken.at < freshForMs;
    const result = this.#place(await this.hosts(), request);
    // A host may have come or gone since; only a fresh look may say that there is no room.
    if ("unplaceable" in result && fresh) {
      this.forget();
      return this.#toResult(await this.hosts(), request, this.#place(await this.hosts(), request));
    }
    return this.#toResult(await this.hosts(), request, result);
  }

  /** The next choice reads the database again. */
  forget(): void {
    this.#taken = undefined;
  }

  hosts(): Promise<readonly HostSnapshot[]> {
    const now = this.#now();
    if (this.#taken && now - this.#taken.at < freshForMs) return this.#taken.hosts;
    const hosts = readHosts(this.#database);
    const taken = { at: now, hosts };
    this.#taken = taken;
    hosts.catch(() => {
      if (this.#taken === taken) this.#taken = undefined;
    });
    return hosts;
  }

  #place(hosts: readonly HostSnapshot[], request: PlaceRequest): Placement {
    return place(hosts, request, { ...this.#policy, seed: request.seed });
  }

  #toResult(hosts: readonly HostSnapshot[], request: PlaceRequest, placement: Placement): PlaceResult {
    if ("unplaceable" in placement) {
      const { unplaceable } = placement;
      const ifAllWereOnline = hosts.map((host) => ({ ...host, online: true }));
      const offlineWouldDo = !("unplaceable" in this.#place(ifAllWereOnline, request));
      return { unplaceable, why: summarise(unplaceable), offlineWouldDo };
    }
    const byId = new Map(hosts.map((host) => [host.id, host]));
    const ids = [placement.host, ...placement.alternates];
    return {
      hosts: ids.flatMap((id) => byId.get(id) ?? []),
      explanation: placement.explain,
    };
  }
}

async function readHosts(database: Queryable): Promise<readonly HostSnapshot[]> {
  const rows = await database.query<HostRow>(
    `select r.id, r.desired, r.observed, r.deleting_at is not null as deleting,
       c.cpus, c.memory_bytes, c.disk_bytes,
       coalesce(u.cpus, 0)::bigint as used_cpus, coalesce(u.memory_bytes, 0)::bigint as used_memory,
       coalesce(u.disk_bytes, 0)::bigint as used_disk
     from resource r
     left join host_capacity c on c.host_id = r.id
     left join (select host_id, sum(cpus) as cpus, sum(memory_bytes) as memory_bytes, sum(disk_bytes) as disk_bytes
                from reservation group by host_id) u on u.host_id = r.id
     where r.kind = 'host' order by r.id`,
    [],
    "fleet_hosts",
  );
  return rows.map(toSnapshot);
}

function toSnapshot({ id, desired, observed, deleting, ...row }: HostRow): HostSnapshot {
  const { location, prices } = desired;
  return {
    id,
    provider: desired.provider,
    region: desired.region,
    zone: desired.zone,
    location: location ?? undefined,
    prices: prices
      ? { cpuPerHour: prices.cpu_per_hour, memoryGibPerHour: prices.memory_per_gb, currency: prices.currency }
      : undefined,
    architecture: observed?.architecture ?? "",
    cpuBaseline: observed?.cpu_baseline ?? "",
    driver: observed?.driver ?? "",
    acceleration: observed?.acceleration ?? "",
    capacity: { cpus: row.cpus ?? 0, memoryBytes: row.memory_bytes ?? 0, diskBytes: row.disk_bytes ?? 0 },
    used: { cpus: row.used_cpus, memoryBytes: row.used_memory, diskBytes: row.used_disk },
    online: observed?.connected ?? false,
    cordoned: desired.cordoned || deleting,
    capabilities: observed?.capabilities ?? [],
    machineTypes: observed?.machine_types ?? [],
    guestCpuModel: observed?.guest_cpu_model ?? "",
    listenAddress: observed?.listen_address ?? "",
  };
}

/**
 * What the scheduler knows. Plain data, taken in one go by whoever asks; the scheduler never looks
 * anything up itself, so that a choice can be replayed from what it was given.
 */

export interface Amounts {
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
  /** For guests of the hypervisor. */
  readonly gpus?: number | undefined;
  /** For containers. */
  readonly containerGpus?: number | undefined;
}

export interface GeoPoint {
  readonly latitude: number;
  readonly longitude: number;
}

export interface HourlyPrices {
  readonly cpuPerHour: number;
  readonly memoryGibPerHour: number;
  /** Absent: disks cost nothing. */
  readonly diskGibPerMonth?: number | undefined;
  /** Traffic out; absent: it costs nothing. */
  readonly egressPerGib?: number | undefined;
  /** ISO 4217. */
  readonly currency: string;
}

export interface HostSnapshot {
  readonly id: string;
  readonly provider: string;
  readonly region: string;
  readonly zone: string;
  readonly location?: GeoPoint | undefined;
  readonly country?: string | undefined;
  readonly prices?: HourlyPrices | undefined;
  readonly architecture: string;
  /** The CPU that guests may count on: x86-64-v1 to v4, or armv8. */
  readonly cpuBaseline: string;
  readonly driver: string;
  readonly acceleration: string;
  /** What the host may promise: overcommit is applied already. */
  readonly capacity: Amounts;
  /** What it has promised, reservations included; may exceed the capacity when that shrank. */
  readonly used: Amounts;
  readonly online: boolean;
  /** Its owner wants no new instances on it. */
  readonly cordoned: boolean;
  /** Each keeps away whoever does not tolerate it. */
  readonly taints?: readonly string[] | undefined;
  readonly gpuModel?: string | undefined;
  readonly capabilities: readonly string[];
  /** Versioned machine types that its guests can have, newest first. */
  readonly machineTypes: readonly string[];
  readonly guestCpuModel: string;
  /** host:port where other agents reach it. */
  readonly listenAddress: string;
}

/** What a host can still promise; below zero where its capacity shrank. */
export function roomOf({ capacity, used }: Pick<HostSnapshot, "capacity" | "used">): Amounts {
  return {
    cpus: capacity.cpus - used.cpus,
    memoryBytes: capacity.memoryBytes - used.memoryBytes,
    diskBytes: capacity.diskBytes - used.diskBytes,
    gpus: (capacity.gpus ?? 0) - (used.gpus ?? 0),
    containerGpus: (capacity.containerGpus ?? 0) - (used.containerGpus ?? 0),
  };
}

/** What is to be placed. What is left out is not asked for. */
export interface PlacementRequest extends Amounts {
  readonly provider?: string | undefined;
  readonly region?: string | undefined;
  readonly architecture?: string | undefined;
  /** The least CPU that will do. */
  readonly cpuBaseline?: string | undefined;
  readonly imageArchitecture: string;
  /** Id of the one host that will do. */
  readonly host?: string | undefined;
  /** What the host must be able to do. */
  readonly capability?: string | undefined;
  /** The guest's machine, which stays what it is. */
  readonly machineType?: string | undefined;
  readonly guestCpuModel?: string | undefined;
  /** Where its users are. */
  readonly near?: GeoPoint | undefined;
  /** The nearest with room, whatever it costs; the price decides between hosts in one place. */
  readonly nearestFirst?: boolean | undefined;
  readonly countries?: readonly string[] | undefined;
  readonly tolerations?: readonly string[] | undefined;
  readonly gpuModel?: string | undefined;
  /** Per hour. */
  readonly maxPrice?: { readonly amount: number; readonly currency: string } | undefined;
  /** Hosts of those that it is to share one with; none yet: any host will do. */
  readonly together?: readonly string[] | undefined;
  /** Hosts of those that it is to be apart from. */
  readonly apart?: readonly string[] | undefined;
  /** How many of its group are in which zones, by `zoneOf`, in a fixed order. */
  readonly inZones?: readonly (readonly [zone: string, count: number])[] | undefined;
  /** Hosts not to use, such as those that have just refused. */
  readonly exclude?: ReadonlySet<string> | undefined;
}

/** Names a zone among those of all regions and providers. */
export function zoneOf({
  provider,
  region,
  zone,
}: Pick<HostSnapshot, "provider" | "region" | "zone">): string {
  return `${provider}/${region}/${zone}`;
}

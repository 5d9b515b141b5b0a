/** The fleet as a whole. */
import type { CallOptions, Transport } from "./transport.ts";

interface Amounts {
  readonly cpus: number;
  readonly memory_bytes: number;
  readonly disk_bytes: number;
}

export interface HostUsage {
  readonly id: string;
  readonly name: string;
  readonly provider: string;
  readonly region: string;
  readonly online: boolean;
  readonly cordoned: boolean;
  readonly instances: number;
  /** What it may promise. */
  readonly capacity: Amounts;
  /** What it has promised. */
  readonly used: Amounts;
  /** Of what it has promised, per hour. */
  readonly cost: { readonly amount: number; readonly currency: string } | null;
}

export interface Relocation {
  readonly instance_id: string;
  readonly name: string;
  /** Ids of hosts. */
  readonly from: string;
  readonly to: string;
  readonly saves_per_hour: number | null;
  readonly currency: string | null;
  readonly saves_km: number | null;
  readonly move_costs: number;
  readonly pays_back_hours: number | null;
  readonly reasons: readonly string[];
  /** It is carried out without being asked for. */
  readonly automatic: boolean;
}

/** Usage, metrics and advice. */
export function fleetExtras(transport: Transport) {
  const get = <T>(path: string, options: CallOptions, query = {}) =>
    transport.required<T>({ ...options, method: "GET", path: `/skerry/v1/${path}`, query });
  return {
    /** Hosts, the fullest first. For administrators of the cloud. */
    usage(options: CallOptions & { readonly limit?: number } = {}) {
      const { limit, ...call } = options;
      return get<{ items: readonly HostUsage[]; total: number }>("fleet/usage", call, { limit });
    },
    /** Moves that would save the project money or distance. Nothing is carried out. */
    async advice(options: CallOptions = {}): Promise<readonly Relocation[]> {
      return (await get<{ items: readonly Relocation[] }>("placement/advice", options)).items;
    },
  };
}

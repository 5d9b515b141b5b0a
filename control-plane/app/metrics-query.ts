/** Usage over time, from the samples that agents report, in at most 500 points. */
import { Fault, type Json } from "#kernel/fault.ts";
import type { Queryable } from "../store/database.ts";

/** What is kept of one report of a machine; counters run since the machine started. */
export interface MachineSample {
  readonly cpu_usage: number;
  readonly cpu_seconds: number;
  readonly memory_used_bytes: number;
  readonly memory_total_bytes: number;
  readonly disk_read_bytes: number;
  readonly disk_write_bytes: number;
  readonly disk_read_operations: number;
  readonly disk_write_operations: number;
  readonly network_in_bytes: number;
  readonly network_out_bytes: number;
  readonly disk_allocated_bytes: number;
}

/** What is kept of one report of a host; counters run since the host booted. */
export interface HostSample {
  readonly cpu_usage: number;
  readonly memory_used_bytes: number;
  readonly memory_total_bytes: number;
  readonly disk_used_bytes: number;
  readonly disk_total_bytes: number;
  readonly network_in_bytes: number;
  readonly network_out_bytes: number;
}

/** Gauges are averaged over a point's time, counters are as at its end. */
const gauges = ["cpu_usage", "memory_used_bytes", "memory_total_bytes", "disk_allocated_bytes"] as const;
const counters = [
  "cpu_seconds",
  "disk_read_bytes",
  "disk_write_bytes",
  "disk_read_operations",
  "disk_write_operations",
  "network_in_bytes",
  "network_out_bytes",
] as const satisfies readonly (keyof MachineSample)[];

export type MachinePoint = MachineSample & { readonly at: Date };

export interface MachineSeries {
  readonly start: Date;
  readonly end: Date;
  /** How much time one point stands for. */
  readonly intervalSeconds: number;
  readonly points: readonly MachinePoint[];
}

export interface SystemUsage {
  readonly at: Date;
  readonly cpuUsage: number;
  readonly memoryUsage: number;
  readonly diskUsage: number;
  readonly networkInBytes: number;
  readonly networkOutBytes: number;
  readonly runningInstances: number;
  readonly runningMigrations: number;
}

export interface MetricsRange {
  readonly start: Date | undefined;
  readonly end: Date | undefined;
}

const maxPoints = 500;
const defaultRangeMs = 3_600_000;
const maxRangeMs = 366 * 86_400_000;
/** A host that has not reported for so long does not count as part of the system's usage. */
const freshMs = 120_000;

export class MetricsQuery {
  readonly #database: Queryable;
  readonly #now: () => number;

  constructor({ database, now = Date.now }: { database: Queryable; now?: () => number }) {
    this.#database = database;
    this.#now = now;
  }

  /** A machine's usage. The caller has checked that it may be seen. */
  async machine(machineId: string, range: MetricsRange): Promise<MachineSeries> {
    const { start, end } = resolveRange(range, this.#now());
    const seconds = Math.max(1, Math.ceil((end.getTime() - start.getTime()) / 1000 / maxPoints));
    const rows = await this.#database.query<MachinePoint>(machineSql, [machineId, start, end, seconds]);
    return { start, end, intervalSeconds: seconds, points: rows };
  }

  /** The cloud's usage now, from each host's newest sample; memory and disk weigh by size, CPU by host. */
  async system(): Promise<SystemUsage> {
    const now = this.#now();
    const [row] = await this.#database.query<Omit<SystemUsage, "at">>(systemSql, [new Date(now - freshMs)]);
    if (!row) throw new Fault("internal", "the usage query gave no row");
    return { at: new Date(now), ...row };
  }
}

/** The series as the native API shows it. */
export function toMachineSeriesJson(id: string, series: MachineSeries): Json {
  return {
    id,
    start_time: series.start.toISOString(),
    end_time: series.end.toISOString(),
    interval_seconds: series.intervalSeconds,
    points: series.points.map(({ at, ...sample }) => ({ at: at.toISOString(), ...sample })),
  };
}

/** Fills in and checks a range: an hour up to now by default, a year and a day at most. */
export function resolveRange(range: MetricsRange, nowMs: number): { start: Date; end: Date } {
  const end = range.end ?? new Date(nowMs);
  const start = range.start ?? new Date(end.getTime() - defaultRangeMs);
  const lengthMs = end.getTime() - start.getTime();
  if (lengthMs <= 0) throw invalidRange("start_time must be before end_time");
  if (lengthMs > maxRangeMs) throw invalidRange("a range is at most 366 days long");
  return { start, end };
}

const invalidRange = (message: string) =>
  new Fault("invalid", message, {
    reason: "RANGE_INVALID",
    detail: { fields: [{ field: "start_time", message }] },
  });

const aggregate = (how: "avg" | "max") => (field: string) =>
  `coalesce(${how}((sample ->> '${field}')::float8), 0) as ${field}`;

const machineSql = `
  select date_bin($4 * interval '1 second', at, $2::timestamptz) as at,
         ${[...gauges.map(aggregate("avg")), ...counters.map(aggregate("max"))].join(", ")}
  from machine_sample
  where machine_id = $1 and at >= $2 and at <= $3
  group by 1 order by 1 limit ${maxPoints + 1}`;

const share = (used: string, total: string) =>
  `coalesce(sum((sample ->> '${used}')::float8) / nullif(sum((sample ->> '${total}')::float8), 0), 0)`;
const sum = (field: string) => `coalesce(sum((sample ->> '${field}')::float8), 0)`;

const systemSql = `
  select coalesce(avg((sample ->> 'cpu_usage')::float8), 0) as "cpuUsage",
         ${share("memory_used_bytes", "memory_total_bytes")} as "memoryUsage",
         ${share("disk_used_bytes", "disk_total_bytes")} as "diskUsage",
         ${sum("network_in_bytes")} as "networkInBytes",
         ${sum("network_out_bytes")} as "networkOutBytes",
         (select count(*) from resource where kind = 'instance' and phase = 'running') as "runningInstances",
         (select count(*) from resource where kind = 'migration' and request_of is not null) as "runningMigrations"
  from (select distinct on (host_id) sample from host_sample where at >= $1 order by host_id, at desc) newest`;

/** Hosts as the scheduler sees them, read from the database; and which of them have changed. */
import type { HostSpec, HostStatus } from "../resources/host/host.resource.ts";
import type { PriceSpec } from "../resources/price/price.resource.ts";
import type { HostSnapshot, HourlyPrices } from "../scheduler/snapshot.ts";
import type { Queryable } from "../store/database.ts";

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
  readonly gpus: number | null;
  readonly used_gpus: number;
  readonly container_gpus: number | null;
  readonly used_container_gpus: number;
  /** From the price sheet. */
  readonly price: PriceSpec | null;
}

const columns = `r.id, r.desired, r.observed, r.deleting_at is not null as deleting,
  c.cpus, c.memory_bytes, c.disk_bytes,
  coalesce(u.cpus, 0)::bigint as used_cpus, coalesce(u.memory_bytes, 0)::bigint as used_memory,
  coalesce(u.disk_bytes, 0)::bigint as used_disk, c.gpus, coalesce(u.gpus, 0)::bigint as used_gpus,
  c.container_gpus, coalesce(u.container_gpus, 0)::bigint as used_container_gpus,
  (select p.desired from resource p where p.kind = 'price' and p.deleting_at is null
     and p.desired ->> 'provider' = r.desired ->> 'provider'
     and coalesce(p.desired ->> 'region', r.desired ->> 'region') = r.desired ->> 'region'
   order by p.desired ->> 'region' nulls last, p.created_at desc, p.id limit 1) as price`;
const sums = `sum(cpus) as cpus, sum(memory_bytes) as memory_bytes, sum(disk_bytes) as disk_bytes, sum(gpus) as gpus,
  sum(container_gpus) as container_gpus`;
const pageSize = 500;

/** Page by page, so that neither the database nor whoever waits for this process is held up by ten thousand. */
export async function* readAllHosts(database: Queryable): AsyncGenerator<readonly HostSnapshot[]> {
  for (let after: string | undefined = ""; after !== undefined;) {
    const rows: HostRow[] = await database.query<HostRow>(
      `select ${columns} from resource r left join host_capacity c on c.host_id = r.id
       left join lateral (select ${sums} from reservation where host_id = r.id) u on true
       where r.kind = 'host' and r.id > $1 order by r.id limit $2`,
      [after, pageSize],
      "fleet_hosts",
    );
    yield rows.map(toSnapshot);
    after = rows.length < pageSize ? undefined : rows.at(-1)?.id;
  }
}

/** Those of the hosts that there are. */
export async function readHosts(
  database: Queryable,
  ids: readonly string[],
): Promise<readonly HostSnapshot[]> {
  const rows = await database.query<HostRow>(
    `select ${columns} from resource r left join host_capacity c on c.host_id = r.id
     left join lateral (select ${sums} from reservation where host_id = r.id) u on true
     where r.kind = 'host' and r.id = any($1)`,
    [ids],
    "fleet_some_hosts",
  );
  return rows.map(toSnapshot);
}

export interface HostChanges {
  readonly ids: readonly string[];
  /** Where to go on from: what is in no snapshot yet has a later transaction. */
  readonly position: string;
}

/**
 * Hosts that were changed by transactions from `position` on. Some of them were told before: a transaction that
 * was still open then may have ended since, and it is better to look at a host twice than never.
 */
export async function readHostChanges(
  database: Queryable,
  position: string | undefined,
): Promise<HostChanges> {
  const [row] = await database.query<HostChanges>(
    `select pg_snapshot_xmin(pg_current_snapshot())::text as position,
       array(select distinct host_id from host_change where tx >= $1::xid8) as ids`,
    [position ?? "9223372036854775807"],
    "fleet_changes",
  );
  if (!row) throw new Error("a select without a from gives one row");
  return row;
}

function toSnapshot({ id, desired, observed, deleting, ...row }: HostRow): HostSnapshot {
  const { location } = desired;
  return {
    id,
    provider: desired.provider,
    region: desired.region,
    zone: desired.zone,
    location: location ? { latitude: location.latitude, longitude: location.longitude } : undefined,
    country: location?.country,
    prices: toPrices(desired, row.price),
    architecture: observed?.architecture ?? "",
    cpuBaseline: observed?.cpu_baseline ?? "",
    driver: observed?.driver ?? "",
    acceleration: observed?.acceleration ?? "",
    capacity: {
      ...{ cpus: row.cpus ?? 0, memoryBytes: row.memory_bytes ?? 0, diskBytes: row.disk_bytes ?? 0 },
      gpus: row.gpus ?? 0,
      containerGpus: row.container_gpus ?? 0,
    },
    used: {
      ...{ cpus: row.used_cpus, memoryBytes: row.used_memory, diskBytes: row.used_disk },
      gpus: row.used_gpus,
      containerGpus: row.used_container_gpus,
    },
    online: observed?.connected === true && !observed.silence,
    cordoned: desired.cordoned || deleting,
    taints: desired.taints ?? [],
    gpuModel: desired.gpus?.model,
    capabilities: observed?.capabilities ?? [],
    machineTypes: observed?.machine_types ?? [],
    guestCpuModel: observed?.guest_cpu_model ?? "",
    listenAddress: observed?.listen_address ?? "",
  };
}

/** What a host's owner says of its prices comes before the sheet. */
function toPrices({ prices }: HostSpec, sheet: PriceSpec | null): HourlyPrices | undefined {
  const known = prices ?? sheet;
  if (!known) return undefined;
  const { cpu_per_hour: cpuPerHour, memory_per_gb: memoryGibPerHour, currency } = known;
  const diskGibPerMonth = sheet?.currency === currency ? sheet.disk_gib_per_month : 0;
  const egressPerGib = sheet?.currency === currency ? sheet.egress_per_gib : 0;
  return { cpuPerHour, memoryGibPerHour, diskGibPerMonth, egressPerGib, currency };
}

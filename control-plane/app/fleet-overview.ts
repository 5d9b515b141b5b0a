/** What the cloud's hosts give and cost as a whole: for `skerry top` and for Prometheus. */
import { family, processFamilies } from "#kernel/prometheus.ts";
import type { CachedFleet } from "../engine/fleet.ts";
import { perHour } from "../scheduler/prices.ts";
import type { Amounts } from "../scheduler/snapshot.ts";
import type { Queryable } from "../store/database.ts";

export interface HostUsage {
  readonly id: string;
  readonly name: string;
  readonly provider: string;
  readonly region: string;
  readonly online: boolean;
  readonly cordoned: boolean;
  readonly instances: number;
  readonly capacity: Amounts;
  readonly used: Amounts;
  /** What is promised of it costs this per hour. */
  readonly cost: { readonly amount: number; readonly currency: string } | null;
}

export class FleetOverview {
  readonly #database: Queryable;
  readonly #fleet: Pick<CachedFleet, "hosts">;

  constructor(deps: { readonly database: Queryable; readonly fleet: Pick<CachedFleet, "hosts"> }) {
    this.#database = deps.database;
    this.#fleet = deps.fleet;
  }

  /** All hosts, the fullest first. */
  async usage(): Promise<readonly HostUsage[]> {
    const rows = await this.#database.query<{ id: string; name: string; instances: number }>(
      `select h.id, h.name, (select count(*) from resource r where r.host_id = h.id) as instances
       from resource h where h.kind = 'host'`,
      [],
      "fleet_names",
    );
    const known = new Map(rows.map((row) => [row.id, row]));
    const usage = (await this.#fleet.hosts()).map((host): HostUsage => {
      const { name = host.id, instances = 0 } = known.get(host.id) ?? {};
      const { id, provider, region, online, cordoned, capacity, used, prices } = host;
      const cost = prices ? { amount: perHour(prices, used), currency: prices.currency } : null;
      return { id, name, provider, region, online, cordoned, instances, capacity, used, cost };
    });
    return usage.sort((a, b) => fullness(b) - fullness(a) || (a.name < b.name ? -1 : 1));
  }

  /** In Prometheus' text format. As many lines whatever the number of hosts, instances and projects. */
  async prometheus(): Promise<string> {
    const hosts = await this.#fleet.hosts();
    const phases = await this.#database.query<{ kind: string; phase: string; count: number }>(
      "select kind, phase, count(*) as count from resource where kind in ('host', 'instance') group by 1, 2 order by 1, 2",
      [],
      "metrics_phases",
    );
    const [work] = await this.#database.query<{ due: number; oldest: number; waiting: number }>(
      `select count(*) filter (where run_at <= now()) as due,
         coalesce(extract(epoch from now() - min(run_at) filter (where run_at <= now())), 0)::float8 as oldest,
         (select count(*) from resource where problem ->> 'reason' = 'NO_HOST' and host_id is null) as waiting
       from work where run_at is not null`,
      [],
      "metrics_work",
    );
    const sum = (of: "capacity" | "used", amount: "cpus" | "memoryBytes" | "diskBytes") =>
      hosts.reduce((total, host) => total + host[of][amount], 0);
    return [
      ...family("skerry_resources", "gauge", "Hosts and instances by phase.", [
        ...phases.map(({ kind, phase, count }) => [`{kind="${kind}",phase="${phase}"}`, count] as const),
      ]),
      ...(["capacity", "used"] as const).flatMap((of) =>
        family(
          `skerry_fleet_${of}`,
          "gauge",
          `What all hosts ${of === "used" ? "have promised" : "may promise"}.`,
          [
            ['{of="cpus"}', sum(of, "cpus")],
            ['{of="memory_bytes"}', sum(of, "memoryBytes")],
            ['{of="disk_bytes"}', sum(of, "diskBytes")],
          ],
        ),
      ),
      ...family("skerry_work_due", "gauge", "Keys that wait for a pass.", [["", work?.due ?? 0]]),
      ...family("skerry_work_oldest_seconds", "gauge", "How long the oldest of them has waited.", [
        ["", work?.oldest ?? 0],
      ]),
      ...family("skerry_waiting_for_host", "gauge", "Instances that no host can take.", [
        ["", work?.waiting ?? 0],
      ]),
      ...processFamilies(),
      "",
    ].join("\n");
  }
}

function fullness({ capacity, used }: HostUsage): number {
  const share = (amount: "cpus" | "memoryBytes") => used[amount] / Math.max(1, capacity[amount]);
  return Math.max(share("cpus"), share("memoryBytes"));
}

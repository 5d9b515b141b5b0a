/** Plays the events of a plan on a running cloud, as its users and its operator would: by the API. */
import type { Database } from "#cp/store/database.ts";
import type { PlacementRequest } from "#cp/scheduler/snapshot.ts";
import type { InstanceInput, Skerry } from "#sdk/index.ts";
import { InstanceWatch } from "./instance-watch.ts";
import { timeInFlight } from "./in-flight.ts";
import type { SheetLine, SimEvent } from "./sim-plan.ts";

export interface SimRunOptions {
  readonly client: Skerry;
  readonly database: Database;
  readonly signal: AbortSignal;
}

export interface Played {
  readonly seconds: number;
  /** From each request until a watch shows that it runs, in milliseconds. */
  readonly durations: readonly number[];
  /** Name of a machine -> host on which it began. */
  readonly placements: ReadonlyMap<string, string>;
  /** The events as the cloud decided them: of those that are under way at a time one may overtake the other. */
  readonly decided: readonly SimEvent[];
}

const inFlight = 16;

export class SimRun implements AsyncDisposable {
  readonly #client: Skerry;
  readonly #database: Database;
  readonly #watch: InstanceWatch;
  readonly #prices = new Map<string, string>();
  readonly #placements = new Map<string, string>();
  readonly #arrivals = new Map<string, Promise<string>>();

  private constructor({ client, database }: SimRunOptions, watch: InstanceWatch) {
    this.#client = client;
    this.#database = database;
    this.#watch = watch;
  }

  static async open(options: SimRunOptions): Promise<SimRun> {
    return new SimRun(options, await InstanceWatch.open(options.client, options.signal));
  }

  /** Puts the price sheet up. */
  async publish(sheet: readonly SheetLine[]): Promise<void> {
    for (const line of sheet) {
      const { id } = await this.#client.prices.create({ name: placeOf(line), spec: toPrice(line) });
      this.#prices.set(placeOf(line), id);
    }
  }

  /** All events in order, so many at a time; but whoever comes before prices change pays the old ones. */
  async play(events: readonly SimEvent[]): Promise<Played> {
    const durations: number[] = [];
    const started = performance.now();
    for (const era of splitIntoEras(events)) {
      for (const { line } of era.reprices) await this.#reprice(line);
      await timeInFlight(era.moves.length, inFlight, async (index) => {
        const event = era.moves[index];
        if (event?.type === "arrive") durations.push(await this.#arrive(event.name, event.request));
        if (event?.type === "depart") await this.#depart(event.name);
      });
    }
    const seconds = (performance.now() - started) / 1000;
    const rows = await this.#database.query<{ name: string; host: string }>(
      "select name, host_id as host from resource where kind = 'instance' and host_id is not null",
    );
    for (const { name, host } of rows) this.#placements.set(name, host);
    return { seconds, durations, placements: this.#placements, decided: await this.#order(events) };
  }

  async #order(events: readonly SimEvent[]): Promise<SimEvent[]> {
    const rows = await this.#database.query<{ name: string; placed: number; erased: number | null }>(
      `select coalesce(r.name, t.last ->> 'name') as name, extract(epoch from s.updated_at)::float8 as placed,
         extract(epoch from t.erased_at)::float8 as erased
       from operation o join operation_step s on s.operation_id = o.id and s.name = 'place'
       left join resource r on r.id = o.resource_id left join tombstone t on t.id = o.resource_id
       where o.kind = 'instance' and o.name = 'create'`,
    );
    const known = new Map(rows.map((row) => [row.name, row]));
    const timeOf = ({ type, name }: Move) => {
      const at = known.get(name)?.[type === "arrive" ? "placed" : "erased"];
      if (typeof at !== "number") throw new Error(`nobody knows when ${name} was to ${type}`);
      return at;
    };
    return splitIntoEras(events).flatMap(({ reprices, moves }) => {
      const timed = moves.map((move) => ({ move, at: timeOf(move) })).sort((a, b) => a.at - b.at);
      return [...reprices, ...timed.map(({ move }) => move)];
    });
  }

  async #arrive(name: string, request: PlacementRequest): Promise<number> {
    const running = this.#watch.untilRunning(name);
    const started = performance.now();
    const created = this.#client.instances.create({ name, spec: toSpec(request) });
    const arrival = Promise.all([created, running]).then(([{ id }]) => id);
    this.#arrivals.set(name, arrival);
    await arrival;
    return performance.now() - started;
  }

  async #depart(name: string): Promise<void> {
    const id = await this.#arrivals.get(name);
    if (id === undefined) throw new Error(`${name} has not come yet`);
    const { placement } = await this.#client.instances.get(id);
    if (placement?.host_id) this.#placements.set(name, placement.host_id);
    const gone = this.#watch.untilGone(id);
    await this.#client.instances.delete(id);
    await gone;
  }

  async #reprice(line: SheetLine): Promise<void> {
    await this.#client.prices.update(this.#prices.get(placeOf(line)) ?? "", { spec: toPrice(line) });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch[Symbol.asyncDispose]();
  }
}

type Reprice = Extract<SimEvent, { type: "reprice" }>;
type Move = Exclude<SimEvent, Reprice>;

interface Era {
  readonly reprices: Reprice[];
  readonly moves: Move[];
}

function splitIntoEras(events: readonly SimEvent[]): Era[] {
  const eras: Era[] = [];
  for (const event of events) {
    const last = eras.at(-1);
    const era =
      !last || (event.type === "reprice" && last.moves.length > 0) ? { reprices: [], moves: [] } : last;
    if (era !== last) eras.push(era);
    if (event.type === "reprice") era.reprices.push(event);
    else era.moves.push(event);
  }
  return eras;
}

const placeOf = ({ provider, region }: SheetLine): string => `${provider}-${region}`;

function toPrice({ provider, region, prices }: SheetLine) {
  const { cpuPerHour: cpu_per_hour, memoryGibPerHour: memory_per_gb, currency } = prices;
  return { provider, region, cpu_per_hour, memory_per_gb, currency };
}

function toSpec(request: PlacementRequest): InstanceInput {
  const { cpus, memoryBytes: memory_bytes, diskBytes: disk_bytes, provider, countries, near } = request;
  return {
    ...{ image: "micro", cpus, memory_bytes, disk_bytes, on_host_loss: "restart_elsewhere" },
    ...(provider !== undefined && { provider }),
    constraints: { ...(countries && { countries: [...countries] }), ...(near && { near }) },
  };
}

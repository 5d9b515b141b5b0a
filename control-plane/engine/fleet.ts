/**
 * The scheduler's view of all hosts, which every replica keeps for itself: read once, then kept current by
 * looking again at those hosts that `host_change` names, and checked against all of them now and then. Choosing is
 * optimistic, reserving is not, so a view that is a little old costs a second try and never correctness.
 */
import type { Json } from "#kernel/fault.ts";
import { summarise } from "../scheduler/explain.ts";
import { excluded } from "../scheduler/filters/excluded.ts";
import { HostClasses, labelsKey } from "../scheduler/host-classes.ts";
import type { Placement } from "../scheduler/place.ts";
import { Placer } from "../scheduler/placer.ts";
import type { Policy } from "../scheduler/policy.ts";
import { roomOf, type Amounts, type HostSnapshot, type PlacementRequest } from "../scheduler/snapshot.ts";
import type { Queryable } from "../store/database.ts";
import { placeInGroups, type GroupWish } from "./groups.ts";
import { readAllHosts, readHostChanges, readHosts } from "./host-rows.ts";
import { Taken, withTaken } from "./taken.ts";

export interface PlaceRequest extends PlacementRequest {
  /** Orders hosts of equal score. */
  readonly seed: string;
  /** What it belongs to, and by what rules. */
  readonly within?: GroupWish | undefined;
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
      /** Hosts that the request rules out by id would do. */
      readonly excludedWouldDo: boolean;
    };

export interface Fleet {
  /** All hosts as they were a moment ago. */
  hosts(): Promise<readonly HostSnapshot[]>;
  choose(request: PlaceRequest): Promise<PlaceResult>;
  /** Has room promised on a host: whoever chooses meanwhile knows, before the view has been read anew. */
  taking<T>(hostId: string, amounts: Amounts, promise: () => Promise<T>): Promise<T>;
  /** The next choice first looks what has changed. */
  refresh(): void;
}

/** How old the view may be when nobody has said that something changed. */
const freshForMs = 500;
/** Changes that come close together are one look. */
const gatherMs = 25;
/** How often everything is read, whatever the changes say. */
const checkEveryMs = 30_000;

export class CachedFleet implements Fleet {
  readonly #database: Queryable;
  readonly #now: () => number;
  readonly #onRoom: (room: Amounts) => void;
  readonly #taken = new Taken();
  /** Hosts whose last reading may have missed something. */
  readonly #again = new Set<string>();
  #hosts = new HostClasses();
  #placer: Placer;
  #position: string | undefined;
  #checkedAt = -Infinity;
  #syncedAt = -Infinity;
  #syncing: Promise<void> | undefined;
  #gathering: NodeJS.Timeout | undefined;

  /** @param onRoom is told what a host has free, when that is more than before or can be had again */
  constructor(
    database: Queryable,
    policy: Policy,
    now: () => number,
    onRoom: (room: Amounts) => void = () => undefined,
  ) {
    this.#database = database;
    this.#now = now;
    this.#onRoom = onRoom;
    this.#placer = new Placer(this.#hosts, policy);
  }

  async choose({ seed, within, ...alone }: PlaceRequest): Promise<PlaceResult> {
    await this.#ensureFresh();
    const others = within && (await placeInGroups(this.#database, within, (id) => this.#hosts.get(id)));
    const request = { ...alone, ...others };
    const placement = this.#placer.place(request, seed);
    if (!("unplaceable" in placement)) return this.#toResult(placement);
    // A host may have come or gone since; only a fresh look may say that there is no room.
    await this.#syncing;
    await this.#sync();
    return this.#toResult(this.#placer.place(request, seed));
  }

  async hosts(): Promise<readonly HostSnapshot[]> {
    await this.#ensureFresh();
    return [...this.#hosts.hosts()];
  }

  async find(id: string): Promise<HostSnapshot | undefined> {
    await this.#ensureFresh();
    return this.#hosts.get(id);
  }

  /** Something was committed, here or elsewhere: looks soon which hosts it concerns, if any. */
  poke(): void {
    if (this.#position === undefined) return; // nobody has asked yet
    this.#gathering ??= setTimeout(() => {
      this.#gathering = undefined;
      // Whoever chooses next tries again, and is told.
      this.#sync().catch(() => (this.#syncedAt = -Infinity));
    }, gatherMs).unref();
  }

  refresh(): void {
    this.#syncedAt = -Infinity;
  }

  async taking<T>(hostId: string, amounts: Amounts, promise: () => Promise<T>): Promise<T> {
    const take = this.#taken.begin(hostId, amounts);
    this.#note(hostId, amounts, 1);
    try {
      const promised = await promise();
      take.promisedAt = this.#now();
      return promised;
    } catch (error) {
      this.#taken.drop(hostId, take);
      this.#note(hostId, amounts, -1);
      throw error;
    }
  }

  #note(hostId: string, amounts: Amounts, sign: 1 | -1): void {
    const host = this.#hosts.get(hostId);
    if (host) this.#hosts.set(withTaken(host, amounts, sign));
  }

  async #ensureFresh(): Promise<void> {
    if (this.#now() - this.#syncedAt >= freshForMs) await this.#sync();
  }

  #sync(): Promise<void> {
    this.#syncing ??= this.#read().finally(() => (this.#syncing = undefined));
    return this.#syncing;
  }

  async #read(): Promise<void> {
    const startedAt = this.#now();
    const { ids, position } = await readHostChanges(this.#database, this.#position);
    if (startedAt - this.#checkedAt >= checkEveryMs) {
      // Those that are as they were keep their places, and what was worked out about them.
      const looked = new Set([...this.#hosts.hosts()].map(({ id }) => id));
      for await (const page of readAllHosts(this.#database)) this.#apply(looked, page, startedAt);
      for (const id of looked) this.#hosts.delete(id);
      this.#checkedAt = startedAt;
    } else if (ids.length + this.#again.size > 0) {
      const looked = new Set([...ids, ...this.#again]);
      this.#again.clear();
      this.#apply(looked, await readHosts(this.#database, [...looked]), startedAt);
      for (const id of looked) this.#hosts.delete(id);
    }
    this.#position = position;
    this.#syncedAt = startedAt;
    if (this.#again.size > 0) this.poke();
  }

  /** @param looked loses those that were found: what is left in the end is gone */
  #apply(looked: Set<string>, found: readonly HostSnapshot[], readAt: number): void {
    for (const read of found) {
      const { host, missed } = this.#taken.addTo(read, readAt);
      if (missed) this.#again.add(host.id);
      const room = newRoom(this.#hosts.get(host.id), host);
      if (room) this.#onRoom(room);
      this.#hosts.set(host);
      looked.delete(host.id);
    }
  }

  #toResult(placement: Placement): PlaceResult {
    if ("unplaceable" in placement) {
      const { unplaceable } = placement;
      const excludedWouldDo = unplaceable.rejected.some(({ code }) => code === excluded.code);
      return { unplaceable, why: summarise(unplaceable), excludedWouldDo };
    }
    const ids = [placement.host, ...placement.alternates];
    return { hosts: ids.flatMap((id) => this.#hosts.get(id) ?? []), explanation: placement.explain };
  }
}

/** What a host has free, when it has more than before or has changed in other ways that may let somebody in. */
function newRoom(before: HostSnapshot | undefined, host: HostSnapshot): Amounts | undefined {
  if (!host.online || host.cordoned) return undefined;
  const room = roomOf(host);
  if (!before || labelsKey(before) !== labelsKey(host)) return room;
  const had = roomOf(before);
  const dimensions = ["cpus", "memoryBytes", "diskBytes", "gpus", "containerGpus"] as const;
  return dimensions.some((each) => (room[each] ?? 0) > (had[each] ?? 0)) ? room : undefined;
}

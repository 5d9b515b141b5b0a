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
}

/** How old the view may be when nobody has said that something changed. */
const freshForMs = 500;
/** Changes that come close together are one look. */
const gatherMs = 8;
/** How often everything is read, whatever the changes say. */
const checkEveryMs = 30_000;

export class CachedFleet implements Fleet {
  readonly #database: Queryable;
  readonly #now: () => number;
  readonly #onRoom: (room: Amounts) => void;
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

  /** The next choice reads all hosts again. */
  forget(): void {
    this.#checkedAt = -Infinity;
    this.#syncedAt = -Infinity;
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
      const hosts = await readAllHosts(this.#database);
      this.#apply(new Set([...this.#hosts.hosts()].map(({ id }) => id)), hosts);
      this.#checkedAt = startedAt;
    } else if (ids.length > 0) {
      this.#apply(new Set(ids), await readHosts(this.#database, ids));
    }
    this.#position = position;
    this.#syncedAt = startedAt;
  }

  /** @param looked whatever of these was not found is gone */
  #apply(looked: Set<string>, found: readonly HostSnapshot[]): void {
    for (const host of found) {
      const room = newRoom(this.#hosts.get(host.id), host);
      if (room) this.#onRoom(room);
      this.#hosts.set(host);
      looked.delete(host.id);
    }
    for (const id of looked) this.#hosts.delete(id);
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
  const more = room.cpus > had.cpus || room.memoryBytes > had.memoryBytes || room.diskBytes > had.diskBytes;
  return more ? room : undefined;
}

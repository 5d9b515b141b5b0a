/**
 * All hosts, kept in the order in which a choice wants them: hosts with the same labels are a class, and those of
 * a class that are as full as each other are twins. What is asked of a class or of twins is asked once, however
 * many they are; a change of load moves one host from one set of twins to another.
 *
 * A representative stands for its class in all that `labels` covers, and for its twins in `load`, too. It may have
 * left since: what it stands for has not changed.
 */
import { hashId } from "./ranking.ts";
import type { HostSnapshot } from "./snapshot.ts";

export interface Member {
  readonly host: HostSnapshot;
  /** Of its id: half of what orders hosts of equal score. */
  readonly hash: number;
}

export interface Twins {
  readonly key: string;
  readonly representative: HostSnapshot;
  readonly members: Set<Member>;
}

export interface HostClass {
  readonly key: string;
  readonly representative: HostSnapshot;
  readonly twins: Map<string, Twins>;
  size: number;
  /** Grows with every change of its hosts, load included. */
  changes: number;
  /** The lowest id; undefined while nobody has asked since it left. */
  firstId: string | undefined;
}

/** The id that is named where one has to stand for its class: the lowest. */
export function firstIdOf(hostClass: HostClass): string {
  return (hostClass.firstId ??= lowestId(hostClass));
}

function lowestId({ twins }: HostClass): string {
  let lowest: string | undefined;
  for (const { members } of twins.values()) {
    for (const { host } of members) if (lowest === undefined || host.id < lowest) lowest = host.id;
  }
  return lowest ?? "";
}

/** A class that came to be, or that lost its last host. */
export interface Turnover {
  readonly hostClass: HostClass;
  readonly came: boolean;
}

const turnoversKept = 2_000;

interface Place {
  readonly member: Member;
  readonly hostClass: HostClass;
  readonly twins: Twins;
}

export class HostClasses {
  readonly #places = new Map<string, Place>();
  readonly #classes = new Map<string, HostClass>();
  readonly #turnovers: Turnover[] = [];
  #forgotten = 0;
  #version = 0;

  constructor(hosts: Iterable<HostSnapshot> = []) {
    for (const host of hosts) this.set(host);
  }

  /** Grows when a host comes, goes or changes its labels; not with its load. */
  get version(): number {
    return this.#version;
  }

  /** How many classes have come and gone. */
  get turnover(): number {
    return this.#forgotten + this.#turnovers.length;
  }

  /** Which ones, since it was `turnover`; undefined when that is too long ago. */
  turnoverSince(turnover: number): readonly Turnover[] | undefined {
    if (turnover < this.#forgotten) return undefined;
    return turnover === this.turnover ? [] : this.#turnovers.slice(turnover - this.#forgotten);
  }

  get size(): number {
    return this.#places.size;
  }

  get classes(): Iterable<HostClass> {
    return this.#classes.values();
  }

  get(id: string): HostSnapshot | undefined {
    return this.#places.get(id)?.member.host;
  }

  *hosts(): Iterable<HostSnapshot> {
    for (const { member } of this.#places.values()) yield member.host;
  }

  /** Adds a host, or takes the place of what was known of it. One that is as it was keeps what was worked out about it. */
  set(host: HostSnapshot): void {
    const before = this.#places.get(host.id);
    const key = labelsKey(host);
    if (before && before.hostClass.key === key) {
      if (before.twins.key === loadKey(host)) return;
      removeMember(before);
      this.#add(before.hostClass, host, before.member.hash);
      return;
    }
    this.delete(host.id);
    let hostClass = this.#classes.get(key);
    if (!hostClass) {
      hostClass = { key, representative: host, twins: new Map(), size: 0, changes: 0, firstId: undefined };
      this.#classes.set(key, hostClass);
      this.#note({ hostClass, came: true });
    }
    if (hostClass.size === 0 || (hostClass.firstId !== undefined && host.id < hostClass.firstId)) {
      hostClass.firstId = host.id;
    }
    hostClass.size++;
    this.#version++;
    this.#add(hostClass, host, hashId(host.id));
  }

  delete(id: string): void {
    const place = this.#places.get(id);
    if (!place) return;
    this.#places.delete(id);
    removeMember(place);
    this.#version++;
    const { hostClass } = place;
    if (hostClass.firstId === id) hostClass.firstId = undefined;
    if (--hostClass.size > 0) return;
    this.#classes.delete(hostClass.key);
    this.#note({ hostClass, came: false });
  }

  #note(turnover: Turnover): void {
    this.#turnovers.push(turnover);
    if (this.#turnovers.length < 2 * turnoversKept) return;
    this.#forgotten += turnoversKept;
    this.#turnovers.splice(0, turnoversKept);
  }

  #add(hostClass: HostClass, host: HostSnapshot, hash: number): void {
    const key = loadKey(host);
    hostClass.changes++;
    let twins = hostClass.twins.get(key);
    if (!twins) {
      twins = { key, representative: host, members: new Set() };
      hostClass.twins.set(key, twins);
    }
    const member = { host, hash };
    twins.members.add(member);
    this.#places.set(host.id, { member, hostClass, twins });
  }
}

function removeMember({ member, hostClass, twins }: Place): void {
  hostClass.changes++;
  twins.members.delete(member);
  if (twins.members.size === 0) hostClass.twins.delete(twins.key);
}

/** Whatever a snapshot is given later counts as a label, so that hosts are never taken for alike that are not. */
export function labelsKey({ id: _id, capacity: _capacity, used: _used, ...labels }: HostSnapshot): string {
  return JSON.stringify(labels);
}

function loadKey({ capacity, used }: HostSnapshot): string {
  return (
    `${String(used.cpus)} ${String(used.memoryBytes)} ${String(used.diskBytes)} ` +
    `${String(capacity.cpus)} ${String(capacity.memoryBytes)} ${String(capacity.diskBytes)} ` +
    `${String(used.gpus)} ${String(capacity.gpus)} ${String(used.containerGpus)} ${String(capacity.containerGpus)}`
  );
}

/**
 * Watches for hosts that are not heard of. Silence is counted by a clock that nobody sets, from when this replica could
 * hear: not from before it began, nor through a time in which it stood still itself. A host is lost only when another
 * has looked (loss-judgement.ts) and after its lease, the largest error of clocks and the time in which its agent pulls
 * the plugs; the word is void if any replica gives it a lease meanwhile.
 *
 * What would break it: an agent that does not keep to its lease, such as one that stops at the very moment at which its
 * host is cut off, before anybody has looked.
 */
import { randomInt } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import { HostSighting } from "#gen/skerry/agent/v1/host_pb.js";
import type { Logger } from "#kernel/log.ts";
import { deadline } from "#kernel/retry.ts";
import type { AgentPort } from "../agents/port.ts";
import type { HostStatus, Sighting } from "../resources/host/host.resource.ts";
import type { Database, Tx } from "../store/database.ts";
import type { Leases } from "./leases.ts";
import { explainSilence, isLost, type LossTiming, mergeSightings, reportEveryMs } from "./loss-judgement.ts";
import { showSilence, wakeAll } from "./loss-record.ts";
import type { KindRegistry } from "./observe.ts";

export interface HostWatchOptions {
  readonly database: Database;
  readonly registry: KindRegistry;
  readonly agents: AgentPort;
  readonly leases: Pick<Leases, "heardAtMs">;
  readonly replicaId: string;
  readonly timing: LossTiming;
  readonly monotonicMs: () => number;
  readonly log: Logger;
  readonly onChange: () => void;
}

interface SilentRow {
  readonly id: string;
  readonly seq: number;
  readonly fresh: boolean;
  readonly lost: boolean;
  readonly connected: boolean;
  readonly sighting: Sighting | null;
  readonly reached: boolean | null;
  readonly address: string | null;
}

interface Tracked {
  readonly seq: number;
  readonly sinceMs: number;
  /** When others are asked again. */
  askAtMs: number;
  /** Since when its agent answers others. */
  answersSinceMs: number | undefined;
}

/** How many others are asked about one host. */
const opinions = 3;
/** How many hosts are tried at a time whether others reach them, and when one that they did not is tried again. */
const reachesAtOnce = 32;
const reachAgainMs = 15_000;
const dialLimitMs = 1_500;
/** How long others are asked at every look; afterwards ever more seldom. */
const urgentLeases = 5;
const askAtLeastMs = 30_000;

export class HostWatch implements AsyncDisposable {
  readonly #options: HostWatchOptions;
  readonly #everyMs: number;
  readonly #tracked = new Map<string, Tracked>();
  /** When others did not reach a host. */
  readonly #unreachedAtMs = new Map<string, number>();
  readonly #stop = new AbortController();
  readonly #dialLimitMs: number;
  /** When this replica's last look ended, and since when it has heard of nobody. */
  #lookedAtMs = -Infinity;
  #deafSinceMs: number | undefined;
  #hearingSinceMs = Infinity;
  #loop: Promise<void> | undefined;

  constructor(options: HostWatchOptions) {
    this.#options = options;
    this.#everyMs = Math.min(1_000, options.timing.leaseMs / 10);
    this.#dialLimitMs = Math.min(dialLimitMs, options.timing.leaseMs / 5);
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await this.look().catch((error: unknown) => {
        this.#lookedAtMs = -Infinity; // without the database nobody is heard
        this.#options.log.warn("loss.look_failed", { error });
      });
      await pause(this.#everyMs, undefined, { signal }).catch(() => undefined); // the loop looks at the signal
    }
  }

  /** One look at all hosts. */
  async look(): Promise<void> {
    const startedAtMs = this.#options.monotonicMs();
    const { suspectMs } = this.#options.timing;
    const rows = await this.#readSilent();
    const silent = new Set(rows.filter(({ fresh }) => !fresh).map(({ id }) => id));
    const askable = this.#options.agents.connected().filter((id) => !silent.has(id));
    this.#listen(startedAtMs, askable.length === 0);
    for (const id of this.#tracked.keys()) if (!silent.has(id)) this.#tracked.delete(id);
    await Promise.all([
      ...rows.map((row) => (row.fresh ? this.#welcome(row) : this.#suspect(row, askable))),
      this.#tryReach(askable),
    ]);
    const endedAtMs = this.#options.monotonicMs();
    const wasStill = endedAtMs - startedAtMs > suspectMs + 2 * this.#dialLimitMs;
    this.#lookedAtMs = wasStill ? startedAtMs : endedAtMs;
  }

  /** Notes when this replica could not hear: it stood still, or all the silence is its own. */
  #listen(now: number, isDeaf: boolean): void {
    const { timing } = this.#options;
    const wasDeaf = this.#deafSinceMs !== undefined && now - this.#deafSinceMs > timing.suspectMs;
    if (now - this.#lookedAtMs > timing.suspectMs || (wasDeaf && !isDeaf)) this.#hearingSinceMs = now;
    this.#deafSinceMs = isDeaf ? (this.#deafSinceMs ?? now) : undefined;
  }

  /** Wall clocks only choose whom to look at; after a step of theirs that is one too many for a moment. */
  #readSilent(): Promise<SilentRow[]> {
    const { database, replicaId, timing } = this.#options;
    return database.query<SilentRow>(
      `with seen as (
         select s.*, s.last_seen between now() - $2 * interval '1 millisecond' and now() as fresh from host_session s)
       select s.host_id as id, s.lease_seq as seq, s.fresh, s.lost_at is not null as lost,
         s.replica_id is not null as connected, s.sighting, s.reached, h.observed ->> 'listen_address' as address
       from seen s join resource h on h.id = s.host_id
       where (not s.fresh or s.sighting is not null or s.lost_at is not null)
         and (s.replica_id is null or s.replica_id = $1 or not s.fresh)`,
      [replicaId, reportEveryMs(timing.leaseMs) * 1.2],
      "loss_silent",
    );
  }

  /** It is heard of again. What it lost its right to is seen off first; then it is like any other. */
  async #welcome({ id, lost, connected }: SilentRow): Promise<void> {
    const { database, log, onChange } = this.#options;
    if (lost && !connected) return;
    const back = await database.transaction(async (tx) => {
      await tx.query("select 1 from host_session where host_id = $1 for update", [id]);
      const rows = await tx.query(
        `update host_session s set sighting = null, lost_at = null, lost_certain = false where host_id = $1 and not (
           lost_at is not null and exists (select 1 from incarnation i join resource r on r.id = i.resource_id
             where i.host_id = $1 and r.host_id is distinct from $1)) returning 1`,
        [id],
      );
      if (rows.length > 0) await this.#show(tx, id, undefined);
      if (rows.length > 0 && lost) await wakeAll(tx, id);
      return rows.length > 0;
    });
    if (!back) return;
    log.info("host.heard_again", { hostId: id, wasLost: lost });
    onChange();
  }

  async #suspect(row: SilentRow, askable: readonly string[]): Promise<void> {
    const { timing, monotonicMs, log, onChange } = this.#options;
    if (row.lost) return this.#wakeBound(row.id);
    const tracked = this.#track(row);
    const now = monotonicMs();
    const sinceMs = this.#silentSinceMs(row, tracked);
    if (now - sinceMs < timing.suspectMs || now < tracked.askAtMs) return;
    const isUrgent = now - sinceMs < urgentLeases * timing.leaseMs;
    tracked.askAtMs = isUrgent ? now : now + Math.min(askAtLeastMs, (now - sinceMs) / 4);
    const sighting = mergeSightings(row.sighting ?? undefined, await this.#ask(row, askable));
    tracked.answersSinceMs =
      sighting === "answered" || sighting === "fenced" ? (tracked.answersSinceMs ?? now) : undefined;
    const answeringMs = now - (tracked.answersSinceMs ?? now);
    // The look is part of the silence: had a report come meanwhile, `#record` would find another lease.
    const silentMs = monotonicMs() - sinceMs;
    const lost = isLost({ silentMs, sighting, answeringMs, reached: row.reached === true }, timing);
    if (sighting === row.sighting && !lost) return;
    if (!(await this.#record(row, sighting, lost))) return;
    log.warn(lost ? "host.lost" : "host.silent", {
      hostId: row.id,
      silentMs,
      sighting,
      reached: row.reached,
    });
    onChange();
  }

  #track({ id, seq }: SilentRow): Tracked {
    const known = this.#tracked.get(id);
    if (known?.seq === seq) return known;
    const sinceMs = this.#options.leases.heardAtMs(id, seq) ?? this.#options.monotonicMs();
    const tracked = { seq, sinceMs, askAtMs: 0, answersSinceMs: undefined };
    this.#tracked.set(id, tracked);
    return tracked;
  }

  /** A host that was not heard since this replica can hear may only be on its way back. */
  #silentSinceMs({ id, seq }: SilentRow, { sinceMs }: Tracked): number {
    const { leases, timing } = this.#options;
    const heardAtMs = leases.heardAtMs(id, seq) ?? -Infinity;
    if (heardAtMs >= this.#hearingSinceMs) return heardAtMs;
    return Math.max(sinceMs, this.#hearingSinceMs + timing.returnMs);
  }

  /** False when it was heard of meanwhile. */
  #record({ id, seq, reached }: SilentRow, sighting: Sighting, lost: boolean): Promise<boolean> {
    return this.#options.database.transaction(async (tx) => {
      const rows = await tx.query(
        `update host_session set sighting = $3, lost_at = case when $4 then now() end
         where host_id = $1 and lease_seq = $2 and lost_at is null returning 1`,
        [id, seq, sighting, lost],
      );
      if (rows.length === 0) return false;
      const since = new Date().toISOString();
      const message = explainSilence(sighting, reached === true, lost);
      await this.#show(tx, id, { since, sighting, lost, message });
      if (lost) await wakeAll(tx, id);
      return true;
    });
  }

  #show(tx: Tx, id: string, silence: HostStatus["silence"]): Promise<void> {
    const { registry, log } = this.#options;
    return showSilence(tx, registry.definition("host"), id, silence, log);
  }

  /** What waits there for its host and need not is looked at, again and again until it is gone from there. */
  async #wakeBound(hostId: string): Promise<void> {
    const woken = await this.#options.database.query(
      `update work w set host_id = null, run_at = now(), dirty_seq = dirty_seq + 1 from resource r
       where r.host_id = $1 and r.kind = 'instance' and r.desired ->> 'on_host_loss' = 'restart_elsewhere'
         and w.key = r.id and w.lease_until is null
         and coalesce(w.settled_at < now() - interval '3 seconds', true)
       returning 1`,
      [hostId],
      "loss_wake",
    );
    if (woken.length > 0) this.#options.onChange();
  }

  async #ask({ id, address }: SilentRow, askable: readonly string[]): Promise<readonly Sighting[]> {
    if (!address) return [];
    const others = pickOthers(askable, id, opinions);
    const seen = await Promise.all(others.map((other) => this.#look(other, id, address)));
    return seen.filter((sighting) => sighting !== undefined);
  }

  async #look(other: string, hostId: string, address: string): Promise<Sighting | undefined> {
    using limit = deadline(2 * this.#dialLimitMs, "another host's look", this.#stop.signal);
    try {
      const request = { hostId, address, limitMs: this.#dialLimitMs };
      const { sighting, lease } = await this.#options.agents.probeHost(other, request, limit);
      const isFenced = lease !== undefined && !lease.holds && lease.boundRunning === 0;
      return isFenced ? "fenced" : toSighting[sighting];
    } catch (error) {
      this.#options.log.debug("loss.no_opinion", { hostId, other, error });
      return undefined;
    }
  }

  /** Whether others reach a host is found out while it is well: afterwards it is too late. */
  async #tryReach(askable: readonly string[]): Promise<void> {
    const { database, replicaId, monotonicMs } = this.#options;
    if (askable.length === 0) return;
    for (const [id, triedAtMs] of this.#unreachedAtMs)
      if (monotonicMs() - triedAtMs > reachAgainMs) this.#unreachedAtMs.delete(id);
    const rows = await database.query<{ id: string; address: string }>(
      `select s.host_id as id, h.observed ->> 'listen_address' as address
       from host_session s join resource h on h.id = s.host_id
       where s.replica_id = $1 and s.reached is not true and h.observed is not null and s.host_id <> all($3) limit $2`,
      [replicaId, reachesAtOnce, [...this.#unreachedAtMs.keys()]],
      "loss_unreached",
    );
    await Promise.all(
      rows.map(async ({ id, address }) => {
        const [other] = pickOthers(askable, id, 1);
        if (other === undefined) return;
        const sighting = await this.#look(other, id, address);
        if (sighting === undefined) return;
        const reached = sighting === "answered" || sighting === "fenced";
        if (!reached) this.#unreachedAtMs.set(id, monotonicMs());
        await database.query("update host_session set reached = $2 where host_id = $1 and replica_id = $3", [
          ...[id, reached, replicaId],
        ]);
      }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }
}

/** So many of the hosts that can be asked about one, by chance; fewer when there are not as many. */
function pickOthers(askable: readonly string[], id: string, count: number): readonly string[] {
  const indexes = new Set<number>();
  // One more, for one of them may be the host itself.
  const most = Math.min(count + 1, askable.length);
  while (indexes.size < most) indexes.add(randomInt(askable.length));
  const picked = [...indexes].flatMap((index) => askable[index] ?? []);
  return picked.filter((other) => other !== id).slice(0, count);
}

const toSighting: Readonly<Record<HostSighting, Sighting | undefined>> = {
  [HostSighting.UNSPECIFIED]: undefined,
  [HostSighting.SILENT]: "silent",
  [HostSighting.REFUSED]: "refused",
  [HostSighting.UNANSWERED]: "unanswered",
  [HostSighting.ANSWERED]: "answered",
};

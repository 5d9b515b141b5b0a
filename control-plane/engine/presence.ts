/** Which hosts are connected, and to which replica. A connection is written when it comes and goes. */
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import type { HostStatus } from "../resources/host/host.resource.ts";
import type { Database, Tx } from "../store/database.ts";
import type { KindRegistry } from "./observe.ts";
import { lockResources, postChange } from "./rows.ts";

const flushMs = 1_000;
/** Connections that come or go so close together are written together, but no more than so many. */
const gatherMs = 10;
const mostAtOnce = 200;
const writeBackoff = { baseMs: 100, capMs: 5_000 };
/** A replica that has not written for this long no longer holds its connections. */
export const replicaLostMs = 15_000;

export interface PresenceOptions {
  readonly database: Database;
  readonly registry: KindRegistry;
  readonly replicaId: string;
  /** Where the other replicas reach this one. */
  readonly replicaUrl: string;
  /** Where the other replicas reach this one's gateway; undefined: nowhere yet. */
  readonly replicaGateway?: () => string | undefined;
  /** The hosts that are connected to this replica now. */
  readonly connected: () => readonly string[];
  readonly log: Logger;
  /** Called after a change was committed. */
  readonly onChange: () => void;
}

/** The replica that holds a host's connection, and where it is reached. */
export interface HoldingReplica {
  readonly replicaId: string;
  readonly url: string;
  readonly gateway: string | null;
}

export class Presence implements AsyncDisposable {
  readonly #options: PresenceOptions;
  /** What is to be written of each host: how it was left last. */
  readonly #changed = new Map<string, boolean>();
  readonly #stop = new AbortController();
  #writing: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #alone = false;
  /** It was silent for so long that others may have taken it for dead, and that is not mended yet. */
  #lapsed = false;

  constructor(options: PresenceOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    await this.#succeed();
    await this.#flush();
    this.#timer = setInterval(() => {
      this.#flush().catch((error: unknown) => this.#options.log.warn("presence.flush_failed", { error }));
    }, flushMs);
  }

  /**
   * Whoever served this address before is dead: its leases need not run out. Safe even if it lives, for
   * the next claim raises the epoch and so refuses whatever it still tries.
   */
  async #succeed(): Promise<void> {
    const { database, replicaId, replicaUrl } = this.#options;
    await database.query(
      `with dead as (delete from replica where url = $1 and id <> $2 returning id)
       update work set lease_until = null, lease_holder = null
       where lease_holder in (select id from dead)`,
      [replicaUrl, replicaId],
    );
    await this.sweep();
  }

  /** No other replica was alive a second ago. */
  get isAlone(): boolean {
    return this.#alone;
  }

  connectionChanged(hostId: string, connected: boolean): void {
    this.#changed.set(hostId, connected);
    this.#writing ??= this.#writeAll();
  }

  /** Until all is written; while the database is away, until this replica stops. */
  async #writeAll(): Promise<void> {
    const { log } = this.#options;
    for (let failures = 0; this.#changed.size > 0 && !(failures > 0 && this.#stop.signal.aborted);) {
      const waitMs = failures > 0 ? backoffMs(failures, writeBackoff) : gatherMs;
      await sleep(waitMs, this.#stop.signal).catch(() => undefined); // stopping: what there is, is written at once
      const batch = [...this.#changed].slice(0, mostAtOnce);
      for (const [hostId] of batch) this.#changed.delete(hostId);
      try {
        await this.#write(batch);
        failures = 0;
      } catch (error) {
        failures++;
        log.error("presence.write_failed", { hosts: batch.length, failures, error });
        for (const [id, connected] of batch) this.#changed.set(id, this.#changed.get(id) ?? connected);
      }
    }
    this.#writing = undefined;
  }

  async #write(batch: readonly (readonly [string, boolean])[]): Promise<void> {
    const { database, replicaId, onChange } = this.#options;
    const that = (wanted: boolean) => batch.flatMap(([id, connected]) => (connected === wanted ? id : []));
    const [came, went] = [that(true), that(false)];
    if (came.length > 0) {
      await database.query(
        `insert into host_session (host_id, replica_id, connected_at, last_seen)
         select id, $2, now(), now() from resource where id = any($1) order by id
         on conflict (host_id) do update set replica_id = $2, connected_at = now(), reached = null`,
        [came, replicaId],
        "presence_came",
      );
    }
    if (went.length > 0) {
      // Unless it is connected elsewhere by now.
      await database.query(
        "update host_session set replica_id = null where host_id = any($1) and replica_id = $2",
        [went, replicaId],
        "presence_went",
      );
    }
    await database.transaction((tx) => this.#show(tx, [...came, ...went]));
    onChange();
  }

  /** Makes the hosts say whether they are connected, all in one go: after a replica's death these are thousands. */
  async #show(tx: Tx, ids: readonly string[]): Promise<void> {
    const { registry, log } = this.#options;
    if (ids.length === 0) return;
    const hosts = await lockResources(tx, ids);
    const held = await tx.query<{ id: string }>(
      "select host_id as id from host_session where host_id = any($1) and replica_id is not null",
      [ids],
      "presence_held",
    );
    const connectedIds = new Set(held.map(({ id }) => id));
    for (const host of hosts) {
      const observed = host.observed as HostStatus | undefined;
      const connected = connectedIds.has(host.id);
      if (!observed || observed.connected === connected) continue;
      postChange(tx, registry.definition("host"), host, { observed: { ...observed, connected } }, log);
    }
  }

  /** Marks hosts whose replica is gone as disconnected. Any replica may do it. */
  async sweep(): Promise<void> {
    const { database, onChange } = this.#options;
    const lost = await database.transaction(async (tx) => {
      const rows = await tx.query<{ host_id: string }>(
        `update host_session s set replica_id = null where replica_id is not null and not exists (
           select 1 from replica r where r.id = s.replica_id and r.last_seen > now() - $1 * interval '1 millisecond')
         returning host_id`,
        [replicaLostMs],
      );
      const ids = rows.map(({ host_id }) => host_id);
      await this.#show(tx, ids);
      return rows.length;
    });
    if (lost > 0) onChange();
  }

  /** Where the replica is that holds the host's connection; undefined when none does. */
  async locate(hostId: string): Promise<HoldingReplica | undefined> {
    const [row] = await this.#options.database.query<HoldingReplica>(
      `select r.id as "replicaId", r.url, r.gateway from host_session s join replica r on r.id = s.replica_id
       where s.host_id = $1 and r.last_seen > now() - $2 * interval '1 millisecond'`,
      [hostId, replicaLostMs],
    );
    return row;
  }

  async #flush(): Promise<void> {
    const { database, replicaId, replicaUrl, replicaGateway } = this.#options;
    const [row] = await database.query<{ others: boolean; lapsed: boolean }>(
      `with me as (
         insert into replica (id, url, gateway) values ($1, $2, $4)
         on conflict (id) do update set url = $2, gateway = $4, last_seen = now())
       select coalesce(bool_or(id <> $1 and not late), false) as others, coalesce(bool_or(id = $1 and late), false) as lapsed
       from (select id, last_seen <= now() - $3 * interval '1 millisecond' as late from replica) seen`,
      [replicaId, replicaUrl, replicaLostMs, replicaGateway?.() ?? null],
      "presence_flush",
    );
    this.#alone = row?.others !== true;
    this.#lapsed ||= row?.lapsed === true;
    if (this.#lapsed) await this.#reclaim();
  }

  /**
   * Somebody may have taken this replica for dead, and its hosts for nobody's: those are its own again, and those that
   * have gone to another are that one's.
   */
  async #reclaim(): Promise<void> {
    const { database, replicaId, connected, log, onChange } = this.#options;
    await database.transaction(async (tx) => {
      const rows = await tx.query<{ id: string }>(
        "update host_session set replica_id = $2 where host_id = any($1) and replica_id is null returning host_id as id",
        [connected(), replicaId],
        "presence_reclaim",
      );
      const ids = rows.map(({ id }) => id);
      log.warn("presence.lapsed", { hosts: ids.length });
      await this.#show(tx, ids);
    });
    this.#lapsed = false;
    onChange();
  }

  /** Says goodbye: the hosts that were connected here are so no longer. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    this.#stop.abort();
    await this.#writing;
    const { database, replicaId, log } = this.#options;
    await database
      .query("delete from replica where id = $1", [replicaId])
      .then(() => this.sweep())
      .catch((error: unknown) => log.warn("presence.goodbye_failed", { error }));
  }
}

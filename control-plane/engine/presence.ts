/** Which hosts are connected, and to which replica. A connection is written when it comes and goes. */
import type { Logger } from "#kernel/log.ts";
import type { HostStatus } from "../resources/host/host.resource.ts";
import type { Database, Tx } from "../store/database.ts";
import type { KindRegistry } from "./observe.ts";
import { lockResources, postChange } from "./rows.ts";

const flushMs = 1_000;
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
  /** Changes of one host are written in the order in which they happened. */
  readonly #writing = new Map<string, Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  #alone = false;

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
    const before = this.#writing.get(hostId) ?? Promise.resolve();
    const write = before
      .then(() => this.#write(hostId, connected))
      .catch((error: unknown) =>
        this.#options.log.error("presence.write_failed", { hostId, connected, error }),
      )
      .finally(() => {
        if (this.#writing.get(hostId) === write) this.#writing.delete(hostId);
      });
    this.#writing.set(hostId, write);
  }

  async #write(hostId: string, connected: boolean): Promise<void> {
    const { database, replicaId, onChange } = this.#options;
    await database.transaction(async (tx) => {
      if (connected) {
        await tx.query(
          `insert into host_session (host_id, replica_id, connected_at, last_seen)
           select id, $2, now(), now() from resource where id = $1
           on conflict (host_id) do update set replica_id = $2, connected_at = now(), reached = null`,
          [hostId, replicaId],
        );
      } else {
        const left = await tx.query(
          "update host_session set replica_id = null where host_id = $1 and replica_id = $2 returning 1",
          [hostId, replicaId],
        );
        if (left.length === 0) return; // it is connected elsewhere by now
      }
      await this.#setConnected(tx, [hostId], connected);
    });
    onChange();
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
      await this.#setConnected(tx, ids, false);
      return rows.length;
    });
    if (lost > 0) onChange();
  }

  /** All in one go: after a replica's death these are thousands, and its successor serves nobody before. */
  async #setConnected(tx: Tx, ids: readonly string[], connected: boolean): Promise<void> {
    const { registry, log } = this.#options;
    if (ids.length === 0) return;
    for (const host of await lockResources(tx, ids)) {
      const observed = host.observed as HostStatus | undefined;
      if (!observed || observed.connected === connected) continue;
      postChange(tx, registry.definition("host"), host, { observed: { ...observed, connected } }, log);
    }
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
    const others = await database.query(
      `with me as (
         insert into replica (id, url, gateway) values ($1, $2, $4)
         on conflict (id) do update set url = $2, gateway = $4, last_seen = now())
       select 1 from replica where id <> $1 and last_seen > now() - $3 * interval '1 millisecond' limit 1`,
      [replicaId, replicaUrl, replicaLostMs, replicaGateway?.() ?? null],
      "presence_flush",
    );
    this.#alone = others.length === 0;
  }

  /** Says goodbye: the hosts that were connected here are so no longer. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#writing.values());
    const { database, replicaId, log } = this.#options;
    await database
      .query("delete from replica where id = $1", [replicaId])
      .then(() => this.sweep())
      .catch((error: unknown) => log.warn("presence.goodbye_failed", { error }));
  }
}

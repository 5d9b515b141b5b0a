/**
 * Heartbeats, gathered and written one statement for many hosts, off the resource's row. Each is a lease for its host:
 * for so long machines with lease terms run without another word (agent/control/lease.ts). The answer that carries a
 * lease waits until it is on record, or a replica that dies would leave the others counting from the one before.
 */
import type { Logger } from "#kernel/log.ts";
import type { Database } from "../store/database.ts";

export interface LeasesOptions {
  readonly database: Database;
  readonly leaseMs: number;
  /** A clock that nobody sets. */
  readonly monotonicMs: () => number;
  readonly log: Logger;
}

/** Heartbeats that come so close together are one statement. */
const gatherMs = 10;

interface Beat {
  readonly sessionId: string;
  readonly heardAtMs: number;
  readonly answer: (leaseMs: number) => void;
}

interface Granted {
  readonly seq: number;
  readonly heardAtMs: number;
}

export class Leases implements AsyncDisposable {
  readonly #options: LeasesOptions;
  readonly #beats = new Map<string, Beat>();
  readonly #granted = new Map<string, Granted>();
  #gathering: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(options: LeasesOptions) {
    this.#options = options;
  }

  /** The host was heard of just now. Gives its lease in milliseconds once that is on record; 0: it has none. */
  renew(hostId: string, sessionId: string): Promise<number> {
    const heardAtMs = this.#options.monotonicMs();
    this.#beats.get(hostId)?.answer(0);
    return new Promise((answer) => {
      this.#beats.set(hostId, { sessionId, heardAtMs, answer });
      this.#gathering ??= setTimeout(() => {
        this.#gathering = undefined;
        this.#writing = this.#writing.then(() => this.#write());
      }, gatherMs);
    });
  }

  /** When, by the monotonic clock, the host was heard for this lease; undefined: another replica gave it. */
  heardAtMs(hostId: string, seq: number): number | undefined {
    const granted = this.#granted.get(hostId);
    return granted?.seq === seq ? granted.heardAtMs : undefined;
  }

  async #write(): Promise<void> {
    const { database, leaseMs, log } = this.#options;
    // In order, as whoever else writes of many sessions: they would wait for each other in a circle.
    const beats = new Map([...this.#beats].sort(([a], [b]) => (a < b ? -1 : 1)));
    this.#beats.clear();
    try {
      const rows = await database.query<{ id: string; seq: number; leased: boolean }>(
        `update host_session s set last_seen = now(), session_id = b.session_id,
           lease_seq = s.lease_seq + case when s.lost_at is null then 1 else 0 end
         from unnest($1::text[], $2::text[]) as b(host_id, session_id) where s.host_id = b.host_id
         returning s.host_id as id, s.lease_seq as seq, s.lost_at is null as leased`,
        [[...beats.keys()], [...beats.values()].map(({ sessionId }) => sessionId)],
        "leases_renew",
      );
      for (const { id, seq, leased } of rows) {
        const beat = beats.get(id);
        if (!beat || !leased) continue;
        this.#granted.set(id, { seq, heardAtMs: beat.heardAtMs });
        beat.answer(leaseMs);
      }
    } catch (error) {
      log.warn("leases.write_failed", { error, hosts: beats.size });
    } finally {
      for (const { answer } of beats.values()) answer(0); // those that have been answered do not hear this
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#gathering);
    for (const { answer } of this.#beats.values()) answer(0);
    this.#beats.clear();
    await this.#writing;
  }
}

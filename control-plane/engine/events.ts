/**
 * Events of the outbox, in commit order, to whoever listens in this process. A transaction that began
 * early may commit late, so a reader only takes rows of transactions older than every running one
 * (`pg_snapshot_xmin`): none is ever skipped.
 */
import { Doorbell } from "#kernel/doorbell.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import type { Database } from "../store/database.ts";

export interface ResourceEvent {
  readonly eventId: string;
  /** Such as `instance.created`, `instance.changed`, `instance.deleted`. */
  readonly type: string;
  readonly resourceId: string;
  readonly kind: string;
  readonly project: string;
  readonly payload: Readonly<Record<string, unknown>>;
}

export type EventListener = (events: readonly ResourceEvent[]) => void;

/** How long an event may take when no hint comes. */
const pollMs = 500;
/** Hints that come close together are one look. */
const gatherMs = 8;
const batch = 1000;

interface Position {
  readonly tx: string;
  readonly id: number;
}

export class EventFeed implements AsyncDisposable {
  readonly #database: Database;
  readonly #log: Logger;
  readonly #listeners = new Set<EventListener>();
  readonly #stop = new AbortController();
  readonly #bell = new Doorbell();
  #loop: Promise<void> | undefined;

  constructor(database: Database, log: Logger) {
    this.#database = database;
    this.#log = log;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** Calls back with each batch from now on. */
  subscribe(listener: EventListener): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }

  poke(): void {
    this.#bell.ring();
  }

  async #run(): Promise<void> {
    let position: Position | undefined;
    for (let failures = 0; !this.#stop.signal.aborted;) {
      try {
        position ??= await this.#now();
        this.#bell.hear();
        const { events, next } = await this.#read(position);
        position = next;
        failures = 0;
        if (events.length > 0) for (const listener of this.#listeners) listener(events);
        if (events.length < batch) {
          if (!this.#stop.signal.aborted) await this.#bell.rest(pollMs);
          await sleep(gatherMs);
        }
      } catch (error) {
        this.#log.warn("events.read_failed", { error, failures });
        // A ring does not shorten it: what failed would be asked for again and again.
        const waitMs = backoffMs(failures++, { baseMs: 100, capMs: 5_000 });
        await sleep(waitMs, this.#stop.signal).catch(() => undefined);
      }
    }
  }

  async #now(): Promise<Position> {
    const [row] = await this.#database.query<{ tx: string }>(
      "select pg_snapshot_xmin(pg_current_snapshot())::text as tx",
    );
    return { tx: row?.tx ?? "0", id: 0 };
  }

  async #read(after: Position): Promise<{ events: ResourceEvent[]; next: Position }> {
    const rows = await this.#database.read<ResourceEvent & { tx: string; id: number }>(
      `select id, tx::text as tx, event_id as "eventId", type, resource_id as "resourceId", kind, project, payload
       from outbox where (tx, id) > ($1::xid8, $2) and tx < pg_snapshot_xmin(pg_current_snapshot())
       order by outbox.tx, id limit $3`,
      [after.tx, after.id, batch],
      "outbox_read",
    );
    const last = rows.at(-1);
    return { events: rows, next: last ? { tx: last.tx, id: last.id } : after };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    this.poke();
    await this.#loop;
  }
}

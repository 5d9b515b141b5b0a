/**
 * Wakes those that wait for a host when one gets room, comes back or joins. Only those that the new room is large
 * enough for are tried, the least recently tried first and a batch at a time, so that neither many who wait
 * nor hosts that change all the time keep the engine busy. Only a hint, like all others: who waits looks by
 * its own clock, too.
 */
import type { Logger } from "#kernel/log.ts";
import { sleep } from "#kernel/retry.ts";
import type { Amounts } from "../scheduler/snapshot.ts";
import type { Queryable } from "../store/database.ts";

/** The reason that is shown while no host will do. */
export const noHost = "NO_HOST";

const batch = 32;
/** Room that appears meanwhile is looked at together. */
const pauseMs = 100;

export interface WaitingOptions {
  readonly database: Queryable;
  readonly log: Logger;
  /** Somebody was woken. */
  readonly onWoken: () => void;
}

export class Waiting implements AsyncDisposable {
  readonly #options: WaitingOptions;
  readonly #stop = new AbortController();
  #room: Amounts | undefined;
  #waking: Promise<void> | undefined;

  constructor(options: WaitingOptions) {
    this.#options = options;
  }

  /** A host has this much free that it had not before. */
  roomAppeared(room: Amounts): void {
    if (this.#stop.signal.aborted) return;
    this.#room = largest(this.#room, room);
    this.#waking ??= this.#wakeAll()
      // Whoever waits finds out later.
      .catch((error: unknown) => this.#options.log.warn("waiting.not_woken", { error }))
      .finally(() => (this.#waking = undefined));
  }

  async #wakeAll(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const room = this.#room;
      this.#room = undefined;
      if (!room) return;
      await this.#wake(room);
      await sleep(pauseMs, signal).catch(() => undefined);
    }
  }

  async #wake({ cpus, memoryBytes, diskBytes }: Amounts): Promise<void> {
    const { database, onWoken } = this.#options;
    const { signal } = this.#stop;
    const [clock] = await database.query<{ now: string }>("select now()::text as now", [], "waiting_now");
    for (let woken = batch; woken === batch && !signal.aborted;) {
      const rows = await database.query(
        `update work set run_at = now(), dirty_seq = dirty_seq + 1 where key in (
           select w.key from work w join resource r on r.id = w.key
           where r.problem ->> 'reason' = '${noHost}' and r.host_id is null
             and (r.desired ->> 'cpus')::numeric <= $1 and (r.desired ->> 'memory_bytes')::numeric <= $2
             and (r.desired ->> 'disk_bytes')::numeric <= $3
             and w.run_at > now() and w.settled_at < $4::timestamptz
           order by w.settled_at limit $5 for update of w skip locked)
         returning 1`,
        [cpus, memoryBytes, diskBytes, clock?.now, batch],
        "waiting_wake",
      );
      woken = rows.length;
      if (woken > 0) onWoken();
      if (woken === batch) await sleep(pauseMs, signal).catch(() => undefined);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#waking;
  }
}

function largest(a: Amounts | undefined, b: Amounts): Amounts {
  return {
    cpus: Math.max(a?.cpus ?? 0, b.cpus),
    memoryBytes: Math.max(a?.memoryBytes ?? 0, b.memoryBytes),
    diskBytes: Math.max(a?.diskBytes ?? 0, b.diskBytes),
  };
}

/**
 * Tells this replica at once, and the others through NOTIFY, that there is something to look at. Only a
 * hint: whoever misses one finds the same work by polling. NOTIFY is sent outside transactions and at
 * most every few milliseconds, because PostgreSQL commits notifying transactions one at a time.
 */
import type { Client } from "pg";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import type { Database } from "../store/database.ts";

const channel = "skerry_hint";
const coalesceMs = 5;
const checkMs = 10_000;

export class Hints implements AsyncDisposable {
  readonly #database: Database;
  readonly #replica: string;
  readonly #log: Logger;
  readonly #listeners = new Set<() => void>();
  readonly #stop = new AbortController();
  #announcing: NodeJS.Timeout | undefined;
  #loop: Promise<void> | undefined;

  readonly #isAlone: () => boolean;

  /** @param isAlone true while there is nobody to tell */
  constructor(database: Database, replica: string, log: Logger, isAlone: () => boolean) {
    this.#database = database;
    this.#replica = replica;
    this.#log = log;
    this.#isAlone = isAlone;
  }

  onHint(listener: () => void): void {
    this.#listeners.add(listener);
  }

  start(): void {
    this.#loop ??= this.#listen();
  }

  /** Call after a commit that left something to do or to see. */
  hint(): void {
    this.#tell();
    if (this.#isAlone()) return;
    this.#announcing ??= setTimeout(() => {
      this.#announcing = undefined;
      this.#database
        .query("select pg_notify($1, $2)", [channel, this.#replica], "hint_notify")
        .catch((error: unknown) => this.#log.debug("hints.not_sent", { error }));
    }, coalesceMs);
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }

  async #listen(): Promise<void> {
    const { signal } = this.#stop;
    for (let failures = 0; !signal.aborted; failures++) {
      let client: Client | undefined;
      try {
        client = await this.#database.dedicatedClient();
        client.on("notification", ({ payload }) => {
          if (payload !== this.#replica) this.#tell();
        });
        const lost = new Promise<never>((_, reject) => client?.on("error", reject));
        lost.catch(() => undefined); // observed by the race below, or not at all once we stop
        await client.query(`listen ${channel}`);
        failures = 0;
        for (;;) {
          await Promise.race([lost, sleep(checkMs, signal)]);
          await client.query("select 1");
        }
      } catch (error) {
        if (signal.aborted) break;
        this.#log.warn("hints.listen_failed", { error, failures });
        await sleep(backoffMs(failures, { baseMs: 200, capMs: 5_000 }), signal).catch(() => undefined);
      } finally {
        await client?.end().catch((error: unknown) => this.#log.debug("hints.end_failed", { error }));
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#announcing);
    this.#stop.abort();
    await this.#loop;
  }
}

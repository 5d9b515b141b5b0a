/**
 * Promises of capacity, several at a time: those that come while others are being asked for go together in one
 * statement, which costs little more than one of them alone. It waits for no lock, so nobody is held up by a host or a
 * key that is busy; whatever it leaves over asks by itself and is told why, if it is refused.
 */
import type { Queryable } from "../store/database.ts";
import { promise } from "./capacity.ts";
import type { Reserved } from "./controller.ts";
import type { Claim } from "./work.ts";

const mostTogether = 64;

interface Asked {
  readonly claim: Claim;
  readonly request: Reserved;
  readonly kept: () => void;
  readonly failed: (error: unknown) => void;
}

export class Promises {
  readonly #database: Queryable;
  readonly #waiting: Asked[] = [];
  #asking = false;

  constructor(database: Queryable) {
    this.#database = database;
  }

  /** As `promise` in capacity.ts. */
  make(claim: Claim, request: Reserved): Promise<void> {
    return new Promise((kept, failed) => {
      this.#waiting.push({ claim, request, kept, failed });
      if (!this.#asking) void this.#askAll();
    });
  }

  /** One batch after the other, until nobody waits. Never throws: everyone is told of their own. */
  async #askAll(): Promise<void> {
    this.#asking = true;
    while (this.#waiting.length > 0) await this.#ask(this.#waiting.splice(0, mostTogether));
    this.#asking = false;
  }

  async #ask(batch: readonly Asked[]): Promise<void> {
    try {
      const promised = new Set(await promiseTogether(this.#database, batch));
      for (const { claim, request, kept, failed } of batch) {
        // Of two claims of one key, one of them lost, the first is the one that was asked for.
        if (promised.delete(claim.key)) kept();
        else promise(this.#database, claim, request).then(kept, failed);
      }
    } catch (error) {
      for (const { failed } of batch) failed(error);
    }
  }
}

/** Gives the keys of those that have their promise now. */
async function promiseTogether(on: Queryable, batch: readonly Asked[]): Promise<readonly string[]> {
  const of = <T>(column: (asked: Asked) => T) => batch.map(column);
  const rows = await on.query<{ key: string }>(
    "select promise_together($1, $2, $3, $4, $5, $6) as key",
    [
      of(({ claim }) => claim.key),
      of(({ claim }) => claim.epoch),
      of(({ request }) => request.hostId),
      of(({ request }) => request.cpus),
      of(({ request }) => request.memoryBytes),
      of(({ request }) => request.diskBytes),
    ],
    "capacity_promise_together",
  );
  return rows.map(({ key }) => key);
}

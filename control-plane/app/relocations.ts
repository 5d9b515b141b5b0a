/**
 * Moves instances whose owners let it to where they are clearly better off (scheduler/relocate.ts says what that is, and
 * that a move pays for itself and nothing moves twice a day). A few at a time, and a few looked at in each pass. Nothing
 * is kept of it but the migrations, so any replica goes on with it, and two at once do no harm: an instance takes one
 * request at a time, and rests after a move that failed as after any other.
 */
import { systemPrincipal } from "#kernel/ctx.ts";
import { isFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { sleep } from "#kernel/retry.ts";
import type { Queryable } from "../store/database.ts";
import type { Relocation, RelocationAdvice } from "./relocation-advice.ts";
import type { ResourceService } from "./resource-service.ts";
import { askUnasked } from "./unasked-move.ts";

export interface RelocationsOptions {
  readonly database: Queryable;
  readonly resources: Pick<ResourceService, "create">;
  readonly advice: Pick<RelocationAdvice, "ofAutomatic">;
  readonly everyMs: number;
  readonly log: Logger;
  readonly now: () => number;
}

/** What the last pass did. */
export interface RelocationPass {
  readonly looked: number;
  readonly advised: number;
  readonly begun: number;
}

const lookedAt = 200;
/** Moves of the whole cloud at a time: they are for money, and must not be in the way of those that are needed. */
const atOnce = 2;
const namePrefix = "relocate-";

export class Relocations implements AsyncDisposable {
  readonly #options: RelocationsOptions;
  readonly #stop = new AbortController();
  #after = "";
  #loop: Promise<void> | undefined;

  constructor(options: RelocationsOptions) {
    this.#options = options;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** One pass over the next of them. */
  async look(): Promise<RelocationPass> {
    const { database, advice, now } = this.#options;
    const [row] = await database.query<{ open: number }>(
      `select count(*) as open from resource
       where kind = 'migration' and request_of is not null and owner = $2 and name like $1`,
      [`${namePrefix}%`, systemPrincipal.name],
      "relocations_open",
    );
    const free = Math.max(0, atOnce - (row?.open ?? 0));
    if (free === 0) return { looked: 0, advised: 0, begun: 0 };
    const { looked, last, moves } = await advice.ofAutomatic(this.#after, lookedAt, now());
    this.#after = last ?? "";
    let begun = 0;
    for (const move of moves.slice(0, free)) if (await this.#begin(move)) begun++;
    return { looked, advised: moves.length, begun };
  }

  async #run(): Promise<void> {
    const { everyMs, log } = this.#options;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      // Replicas that begin together part ways.
      await sleep(everyMs * (0.5 + Math.random()), signal).catch(() => undefined); // the loop looks at the signal
      if (signal.aborted) return;
      await this.look().then(
        (pass) => log.debug("relocation.pass", { ...pass }),
        (error: unknown) => log.warn("relocation.pass_failed", { error }),
      );
    }
  }

  async #begin({ instance: { id, project }, to, reasons }: Relocation): Promise<boolean> {
    const { log } = this.#options;
    const move = { project, name: `${namePrefix}${id}`, spec: { instance: id, host: to } };
    try {
      await askUnasked(this.#options, move, this.#stop.signal);
    } catch (fault) {
      // It has changed since: the next pass sees what is true then.
      if (!isFault(fault, "conflict") && !isFault(fault, "invalid")) throw fault;
      log.info("relocation.not_begun", { instance: id, fault });
      return false;
    }
    log.info("relocation.begun", { instance: id, to, reasons });
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }
}

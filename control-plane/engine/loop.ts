/**
 * Claims due keys and runs passes on them, a limited number at a time. Woken by hints, and by its own
 * clock when none come: polling alone does all the work, only later.
 */
import { setMaxListeners } from "node:events";
import { Doorbell } from "#kernel/doorbell.ts";
import { isFault } from "#kernel/fault.ts";
import { backoffMs, deadline, retry, sleep } from "#kernel/retry.ts";
import { runPass, type PassDependencies, type PassOutcome } from "./pass.ts";
import { leaseMs, WorkQueue, type Claim } from "./work.ts";

/** Pokes that come close together are one claim. */
const gatherMs = 4;
/** A database that was restarted takes a key back as soon as it answers. */
const settleRetry = { baseMs: 50, capMs: 1_000, attempts: 60 };

export interface LoopOptions {
  readonly concurrency: number;
  /** The longest the loop rests without looking. */
  readonly pollMs: number;
  readonly holder: string;
}

export class Loop implements AsyncDisposable {
  readonly #deps: PassDependencies;
  readonly #options: LoopOptions;
  readonly #queue: WorkQueue;
  readonly #stop = new AbortController();
  readonly #running = new Set<Promise<void>>();
  readonly #bell = new Doorbell();
  #failures = 0;
  #loop: Promise<void> | undefined;

  constructor(deps: PassDependencies, options: LoopOptions) {
    this.#deps = deps;
    this.#options = options;
    setMaxListeners(0, this.#stop.signal);
    this.#queue = new WorkQueue(deps.database, options.holder);
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** Something is due: look now. Cheap; may be called any number of times. */
  poke(): void {
    this.#bell.ring();
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      this.#bell.hear();
      await sleep(gatherMs);
      const room = this.#options.concurrency - this.#running.size;
      const claims = room > 0 ? await this.#claim(room) : [];
      for (const claim of claims) this.#dispatch(claim);
      if (claims.length === 0 || claims.length === room) await this.#rest(room > 0);
    }
  }

  async #claim(room: number): Promise<Claim[]> {
    try {
      const claims = await this.#queue.claim(room);
      this.#failures = 0;
      return claims;
    } catch (error) {
      this.#deps.log.warn("engine.claim_failed", { error, failures: ++this.#failures });
      return [];
    }
  }

  #dispatch(claim: Claim): void {
    const pass = this.#process(claim).finally(() => {
      this.#running.delete(pass);
      this.poke();
    });
    this.#running.add(pass);
  }

  async #process(claim: Claim): Promise<void> {
    const { log, now } = this.#deps;
    const started = now();
    try {
      using limit = deadline(leaseMs, "the pass", this.#stop.signal);
      const outcome = await runPass(this.#deps, claim, limit);
      await this.#settle(claim, outcome, limit);
      log.debug("engine.pass", {
        key: claim.key,
        epoch: claim.epoch,
        attempt: claim.attempt,
        ms: now() - started,
        next: outcome.next,
      });
    } catch (error) {
      // The lease runs out by itself and somebody looks again; nothing is lost but time.
      const lost = isFault(error, "stale");
      log[lost ? "info" : "warn"](lost ? "engine.lease_lost" : "engine.pass_not_settled", {
        key: claim.key,
        error,
      });
    }
  }

  /** Nobody else may look at the key before: what is lost here is lost to a guest that stands still. */
  #settle(claim: Claim, { next, ...outcome }: PassOutcome, signal: AbortSignal): Promise<void> {
    const { key } = claim;
    const restMs = next === undefined ? undefined : Math.max(0, next - this.#deps.now());
    return retry(() => this.#queue.settle(claim, { ...outcome, restMs }), {
      ...settleRetry,
      signal,
      onRetry: (fault, attempt) => this.#deps.log.warn("engine.settle_failed", { key, attempt, fault }),
    });
  }

  /** Until poked, until the next key is due, or for the poll interval. */
  async #rest(idle: boolean): Promise<void> {
    if (this.#bell.rung || this.#stop.signal.aborted) return;
    const pollMs =
      this.#failures > 0 ? backoffMs(this.#failures, { baseMs: 100, capMs: 5_000 }) : this.#options.pollMs;
    const dueMs = idle && this.#failures === 0 ? await this.#nextDueInMs() : undefined;
    await this.#bell.rest(Math.max(1, Math.min(pollMs, dueMs ?? pollMs)));
  }

  async #nextDueInMs(): Promise<number | undefined> {
    try {
      return await this.#queue.nextDueInMs();
    } catch (error) {
      this.#deps.log.warn("engine.claim_failed", { error, failures: ++this.#failures });
      return undefined;
    }
  }

  /** Takes no new keys, tells running passes to stop, and waits for them. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    this.poke();
    await this.#loop;
    await Promise.allSettled(this.#running);
  }
}

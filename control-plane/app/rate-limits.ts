/**
 * How often somebody may ask, over all replicas together. A replica takes shares of a window's allowance
 * out of the database ahead of need and counts requests against them by itself, so that hardly any request
 * waits for the database. Never more than the limit is let through; see adr/0014 for how much less it may be.
 */
import type { Principal } from "#kernel/ctx.ts";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { Database } from "../store/database.ts";
import { BoundedCache } from "./bounded-cache.ts";
import type { RateTable, RateWindow } from "./rate-table.ts";

/** Where somebody stands in the first window, or in the one that is used up. */
export interface RateState {
  readonly limit: number;
  readonly remaining: number;
  /** Unix seconds. */
  readonly resetAt: number;
  readonly allowed: boolean;
}

export interface RateLimitsOptions {
  readonly database: Database;
  readonly table: RateTable;
  readonly log: Logger;
  readonly now?: () => number;
}

interface Share {
  readonly window: RateWindow;
  readonly subject: string;
  readonly allowance: string;
  /** Unix seconds. */
  start: number;
  /** Requests that this replica may still let through. */
  left: number;
  /** What nobody had taken when this replica last looked. */
  pool: number;
  /** The share is renewed when so little of it is left. */
  low: number;
  renewal: Promise<void> | undefined;
}

const knownSubjects = 20_000;
const lowPart = 4;

export class RateLimits {
  readonly #options: RateLimitsOptions;
  readonly #now: () => number;
  readonly #shares = new BoundedCache<readonly Share[]>(knownSubjects);

  constructor(options: RateLimitsOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Counts one request to an API. At once, unless a share has to be fetched; undefined: nothing is counted. */
  take(
    api: string,
    principal: Principal | undefined,
    address: string,
  ): RateState | undefined | Promise<RateState | undefined> {
    const plan = principal ? (principal.plan ?? "standard") : "anonymous";
    const windows = this.#options.table[api]?.[plan];
    if (!windows || windows.length === 0) return undefined;
    const shares = this.#sharesOf(api, plan, principal?.id ?? address, windows);
    return this.#takeNow(shares) ?? this.#takeLater(shares);
  }

  #sharesOf(api: string, plan: string, subject: string, windows: readonly RateWindow[]): readonly Share[] {
    const key = `${api} ${plan} ${subject}`;
    const known = this.#shares.get(key);
    if (known) return known;
    const made = windows.map((window) => ({
      window,
      subject,
      allowance: `${api} ${String(window.limit)}/${String(window.seconds)}`,
      start: 0,
      left: 0,
      pool: window.limit,
      low: 0,
      renewal: undefined,
    }));
    this.#shares.set(key, made);
    return made;
  }

  /** Counts against what is here; undefined: some share is empty, and there may be more. */
  #takeNow(shares: readonly Share[]): RateState | undefined {
    const seconds = this.#now() / 1000;
    for (const share of shares) this.#enter(share, seconds);
    const spent = shares.find((share) => share.left === 0 && share.pool === 0);
    if (spent) return stateOf(spent, false);
    if (shares.some((share) => share.left === 0)) return undefined;
    for (const share of shares) {
      share.left--;
      // Not the last few one by one: ahead of need they would lie idle here while others want them.
      const ahead = share.low > 0 && share.left <= share.low && share.pool > 0;
      if (ahead && !share.renewal) this.#renewAhead(share);
    }
    const [first] = shares;
    return first && stateOf(first, true);
  }

  async #takeLater(shares: readonly Share[]): Promise<RateState | undefined> {
    for (;;) {
      // Ends: each renewal adds to a share or empties its pool, until the window is over.
      await Promise.all(shares.filter((share) => share.left === 0).map((share) => this.#renewOnce(share)));
      const state = this.#takeNow(shares);
      if (state) return state;
    }
  }

  #enter(share: Share, seconds: number): void {
    const start = Math.floor(seconds / share.window.seconds) * share.window.seconds;
    if (start <= share.start) return;
    share.start = start;
    share.left = 0;
    share.pool = share.window.limit;
  }

  #renewAhead(share: Share): void {
    this.#renewOnce(share).catch((error: unknown) => this.#options.log.warn("rate.lease_failed", { error }));
  }

  #renewOnce(share: Share): Promise<void> {
    share.renewal ??= this.#renew(share).finally(() => (share.renewal = undefined));
    return share.renewal;
  }

  async #renew(share: Share): Promise<void> {
    const { start, window } = share;
    const [row] = await this.#options.database.query<{ granted: number; taken: number }>(
      "select granted, taken from lease_rate($1, $2, $3, $4)",
      [share.subject, share.allowance, start, window.limit],
      "rate_lease",
    );
    if (!row) throw new Fault("internal", "a lease was answered without a row");
    if (share.start !== start) return; // the window is over: what was leased in it is worth nothing
    share.left += row.granted;
    share.low = Math.floor(row.granted / lowPart);
    share.pool = window.limit - row.taken;
  }
}

function stateOf({ window, start, left, pool }: Share, allowed: boolean): RateState {
  return { limit: window.limit, remaining: left + pool, resetAt: start + window.seconds, allowed };
}

/** The fault of a request too many. */
export function rateExceeded({ resetAt, limit }: RateState, nowMs: number): Fault {
  const seconds = Math.max(1, Math.ceil(resetAt - nowMs / 1000));
  return new Fault("exhausted", "too many requests: come back later", {
    reason: "RATE_LIMITED",
    detail: { limit, retry_after_seconds: seconds },
    retryable: true,
  });
}

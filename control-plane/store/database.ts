/**
 * The pool, and the one place that knows PostgreSQL's error codes. A lost or refused connection is an
 * `unavailable` fault; when it was lost during COMMIT the outcome is unknown, so callers must be able
 * to repeat (idempotency keys, fences).
 */
import pg from "pg";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import { fly, parserOf, rowsOf, toStatement, type Row } from "./flight.ts";
import { ReadLanes } from "./read-lanes.ts";
import { isScript, transact } from "./transaction.ts";

export type { Row };
export type Values = readonly unknown[];

export interface Queryable {
  /** Runs one statement and gives its rows. Statements with a `name` are prepared once per connection. */
  query<R = Row>(text: string, values?: Values, name?: string): Promise<R[]>;
}

export interface Readable {
  /** A short read that waits for no lock; it shares a connection with others. */
  read<R = Row>(text: string, values: Values, name: string): Promise<R[]>;
}

/** A transaction in progress. */
export interface Tx extends Queryable {
  /**
   * Sends a statement whose rows nobody needs, without waiting for it: the next goes out right behind.
   * If it fails, all after it fail too, and so does the transaction, with this statement's error.
   */
  post(text: string, values?: Values, name?: string): void;
}

export interface DatabaseOptions {
  readonly url: string;
  readonly maxConnections: number;
  readonly log: Logger;
}

const contentionAttempts = 4;
/** Few, so that reads come together; more than one, so that a long one does not delay all. */
const readLanes = 2;
const statementTimeoutMs = 15_000;
/**
 * Every statement finds its rows by an index, whatever the statistics say: those of a table that was small a minute ago
 * lead to reading all of it. And a prepared statement is planned once per connection, not with each use, which would
 * cost as much as running it does. What no index serves counts as dear then, and would be compiled for much longer than
 * it runs.
 */
const steadyPlans = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off";
/** A server that does not keep to its own limit is not there any more, whatever its connection says. */
const answerTimeoutMs = statementTimeoutMs + 2_000;
const connectTimeoutMs = 5_000;

export class Database implements Queryable, Readable, AsyncDisposable {
  readonly #pool: pg.Pool;
  readonly #lanes: ReadLanes;
  readonly #url: string;
  readonly #log: Logger;

  constructor({ url, maxConnections, log }: DatabaseOptions) {
    this.#url = url;
    this.#log = log;
    const config = {
      connectionString: url,
      types: { getTypeParser: parserOf as typeof pg.types.getTypeParser },
      connectionTimeoutMillis: connectTimeoutMs,
      statement_timeout: statementTimeoutMs,
      query_timeout: answerTimeoutMs,
      application_name: "skerry",
      options: steadyPlans,
      // A statement is sent when it is asked for, not when the one before it was answered.
      pipeline: true,
    };
    this.#pool = new pg.Pool({ ...config, max: maxConnections });
    this.#lanes = new ReadLanes(config, readLanes);
    // A new connection may be lost before whoever asked for it can listen; unheard, that would end the process.
    this.#pool.on("connect", (client) =>
      client.on("error", (error) => log.debug("database.lost", { error })),
    );
    this.#pool.on("error", (error) => log.warn("database.connection_lost", { error }));
  }

  async query<R = Row>(text: string, values: Values = [], name?: string): Promise<R[]> {
    return this.#persist(() =>
      this.#connected(async (client) => {
        if (isScript(values, name)) return (await client.query(text)).rows as R[];
        return rowsOf<R>(await fly(client, [toStatement(text, values, name)]));
      }),
    );
  }

  async read<R = Row>(text: string, values: Values, name: string): Promise<R[]> {
    try {
      return rowsOf<R>(await this.#lanes.read(toStatement(text, values, name)));
    } catch (error) {
      throw toDatabaseFault(error);
    }
  }

  /**
   * Runs `work` in one READ COMMITTED transaction; a fault thrown inside rolls it back. Deadlocks and
   * serialisation failures run it again, so `work` has no effects but those in the transaction.
   */
  async transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#persist(() => this.#connected((client, lose) => transact(client, lose, work)));
  }

  /** What lost against somebody else has had no effect: it is tried again. */
  async #persist<T>(attemptOnce: () => Promise<T>): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await attemptOnce();
      } catch (error) {
        if (!isContention(error) || attempt + 1 >= contentionAttempts) throw toDatabaseFault(error);
        this.#log.info("database.again", { attempt, sqlState: error.code });
        await sleep(backoffMs(attempt, { baseMs: 5, capMs: 50 }));
      }
    }
  }

  async #connected<T>(use: (client: pg.PoolClient, lose: (error: Error) => void) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect();
    let broken: Error | undefined;
    // A client that is checked out reports its loss here, not to the pool.
    const lose = (error: Error) => (broken = error);
    client.on("error", lose);
    try {
      return await use(client, lose);
    } finally {
      client.off("error", lose);
      client.release(broken);
    }
  }

  /** A connection of its own, outside the pool, for LISTEN. The caller ends it. */
  async dedicatedClient(): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.#url,
      application_name: "skerry-listen",
      connectionTimeoutMillis: connectTimeoutMs,
      keepAlive: true,
    });
    client.on("error", (error) => this.#log.debug("database.lost", { error })); // until the caller listens
    try {
      await client.connect();
      return client;
    } catch (error) {
      throw toDatabaseFault(error);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lanes[Symbol.asyncDispose]();
    await this.#pool.end();
  }
}

type PgError = Error & { code: string };

function isPgError(error: unknown): error is PgError {
  return error instanceof Error && typeof (error as Partial<PgError>).code === "string";
}

function isContention(error: unknown): error is PgError {
  return isPgError(error) && (error.code === "40001" || error.code === "40P01");
}

// Class 08: connection; 57P: shutdown, crash, starting up; 53: out of connections, memory or disk.
const outage = /^(08|57P0|53|ECONN|EPIPE|ENOENT|ETIMEDOUT|EAI_)/;
const outageMessage =
  /connection terminated|pool after calling end|timeout exceeded when trying to connect|timeout expired|query read timeout|client has encountered a connection error|not queryable/i;

/** Raised by `assert_claim`. */
const claimLost = "SK001";

/** A row that this one refers to was deleted meanwhile. */
const referenceGone = "23503";

/** Faults pass through; a lost claim is `stale`; a row that is gone is a `conflict`; a database that is away is `unavailable`; the rest is our bug. */
export function toDatabaseFault(error: unknown): unknown {
  if (error instanceof Fault) return error;
  if (isPgError(error) && error.code === claimLost) {
    return new Fault("stale", "another worker has taken this over", { reason: "LEASE_LOST", cause: error });
  }
  if (isPgError(error) && error.code === referenceGone) {
    return new Fault("conflict", "what this needs has just been taken away", {
      reason: "REFERENCE_GONE",
      cause: error,
    });
  }
  const away =
    (isPgError(error) && outage.test(error.code)) ||
    (error instanceof Error && outageMessage.test(error.message));
  if (!away) return error;
  return new Fault("unavailable", "the database cannot be reached now", {
    reason: "DATABASE_UNAVAILABLE",
    cause: error,
  });
}

/** True when a statement was refused because of the named constraint or unique index. */
export function violates(error: unknown, constraint: string): boolean {
  return isPgError(error) && (error as PgError & { constraint?: string }).constraint === constraint;
}

/**
 * The pool, and the one place that knows PostgreSQL's error codes. A lost or refused connection is an
 * `unavailable` fault; when it was lost during COMMIT the outcome is unknown, so callers must be able
 * to repeat (idempotency keys, fences).
 */
import pg from "pg";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import { holdTogether, ReadLanes } from "./read-lanes.ts";

export type Values = readonly unknown[];
export type Row = Record<string, unknown>;

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
const int8 = 20;
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

// bigint columns hold counters and byte sizes, all below 2^53.
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format: "text" | "binary") =>
    oid === int8
      ? Number
      : (pg.types.getTypeParser(oid, format) as unknown)) as typeof pg.types.getTypeParser,
};

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
      types,
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
    return this.#persist(() => run<R>(this.#pool, text, values, name));
  }

  async read<R = Row>(text: string, values: Values, name: string): Promise<R[]> {
    try {
      return await run<R>(this.#lanes, text, values, name);
    } catch (error) {
      throw toDatabaseFault(error);
    }
  }

  /**
   * Runs `work` in one READ COMMITTED transaction; a fault thrown inside rolls it back. Deadlocks and
   * serialisation failures run it again, so `work` has no effects but those in the transaction.
   */
  async transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#persist(() => this.#transactionOnce(work));
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

  async #transactionOnce<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect();
    let broken: Error | undefined;
    // A client that is checked out reports its loss here, not to the pool.
    const lost = (error: Error) => (broken = error);
    client.on("error", lost);
    const posted = new Posted();
    const query: Tx["query"] = (text, values = [], name) => {
      holdTogether(client);
      return run(client, text, values, name);
    };
    const post: Tx["post"] = (text, values, name) => posted.add(query(text, values, name));
    try {
      post("begin");
      const result = await work({ query, post });
      holdTogether(client);
      const { command } = await client.query("commit");
      await posted.settled();
      // The server's word for: something before had failed.
      if (command !== "COMMIT") throw new Error(`the transaction ended with ${command}`);
      return result;
    } catch (error) {
      await client.query("rollback").catch((failure: Error) => (broken = failure));
      throw (await posted.failure()) ?? error;
    } finally {
      client.off("error", lost);
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

/** Statements that were sent and not waited for. */
class Posted {
  readonly #answers: Promise<unknown>[] = [];

  add(answer: Promise<unknown>): void {
    answer.catch(() => undefined); // told by `settled` or `failure`
    this.#answers.push(answer);
  }

  async settled(): Promise<void> {
    for (const answer of this.#answers) await answer;
  }

  /** The first failure: those after it only say that there was one. */
  async failure(): Promise<unknown> {
    return this.settled().then(
      () => undefined,
      (error: unknown) => error,
    );
  }
}

async function run<R>(
  on: { query(config: pg.QueryConfig): Promise<pg.QueryResult> },
  text: string,
  values: Values,
  name: string | undefined,
): Promise<R[]> {
  const config = { text, values: values as unknown[], ...(name === undefined ? {} : { name }) };
  return (await on.query(config)).rows as R[];
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

/** One transaction on one connection: what is asked of the server within one turn of the event loop leaves together. */
import type pg from "pg";
import type { Tx, Values } from "./database.ts";
import { fly, toStatement, type Answer, type Statement } from "./flight.ts";

/**
 * Runs `work` and commits. When it throws, or a statement has failed, it rolls back and throws the first cause.
 * @param lose is told when the connection is of no use any more
 */
export async function transact<T>(
  client: pg.ClientBase,
  lose: (error: Error) => void,
  work: (tx: Tx) => Promise<T>,
): Promise<T> {
  const sent = new Departures(client);
  const query: Tx["query"] = async <R>(text: string, values: Values = [], name?: string) => {
    if (!isScript(values, name)) return (await sent.add(toStatement(text, values, name))).rows as R[];
    sent.leave();
    return (await client.query(text)).rows as R[];
  };
  const post: Tx["post"] = (text, values = [], name) => {
    sent.add(toStatement(text, values, name), true).catch(() => undefined); // told by `failure`
  };
  try {
    post("begin", [], "begin");
    const result = await work({ query, post });
    const { command } = await sent.add(toStatement("commit", [], "commit"));
    // The server's word for: something before had failed.
    if (command !== "COMMIT") throw new Error(`the transaction ended with ${command}`);
    return result;
  } catch (error) {
    sent.leave();
    await client.query("rollback").catch(lose);
    throw sent.failure ?? error;
  }
}

/** Statements of a transaction: those that are added within one turn leave together. */
class Departures {
  readonly #client: pg.ClientBase;
  #waiting: Departing[] = [];
  /** The first of those that nobody waited for: whatever comes after it only says that there was one. */
  failure: unknown;

  constructor(client: pg.ClientBase) {
    this.#client = client;
  }

  add(statement: Statement, isPosted = false): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#waiting.push({ statement, isPosted, resolve, reject }) > 1) return;
      process.nextTick(() => {
        this.leave();
      });
    });
  }

  /** Whoever waits for a turn to end need not. */
  leave(): void {
    const together = this.#waiting;
    if (together.length === 0) return;
    this.#waiting = [];
    const statements = together.map(({ statement }) => statement);
    void fly(this.#client, statements).then(({ answers, failure }) => {
      if (together[answers.length]?.isPosted) this.failure ??= failure;
      for (const [index, { resolve, reject }] of together.entries()) {
        const answer = answers[index];
        if (answer) resolve(answer);
        else reject(failure);
      }
    });
  }
}

interface Departing {
  readonly statement: Statement;
  readonly isPosted: boolean;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

/** Perhaps many statements, which only the simple protocol takes. */
export function isScript(values: Values, name: string | undefined): boolean {
  return name === undefined && values.length === 0;
}

/**
 * Holds a move exactly at a commit of its record: a trigger of the test's own waits there for a lock that the test has.
 * The transaction has done all its work then and is not committed.
 */
import pg from "pg";

/** What of a migration's record is about to be set. */
export type HeldCommit = "committed_at" | "ended_at";

const locks: Readonly<Record<HeldCommit, number>> = { committed_at: 7001, ended_at: 7002 };
const waits = (column: HeldCommit) => `
  if old.observed->>'${column}' is null and new.observed->>'${column}' is not null then
    perform pg_advisory_xact_lock_shared(${String(locks[column])});
  end if;`;
const trigger = `
  create function hold_move() returns trigger language plpgsql as $$ begin
    ${waits("committed_at")} ${waits("ended_at")}
    return new;
  end $$;
  create trigger hold_move before update on resource for each row
    when (new.kind = 'migration') execute function hold_move();`;

/** Puts the trigger into the database. */
export async function installCommitHolds(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(trigger);
  } finally {
    await client.end();
  }
}

export class CommitHold {
  readonly #client: pg.Client;
  readonly #lock: number;
  #released: Promise<void> | undefined;

  private constructor(client: pg.Client, lock: number) {
    this.#client = client;
    this.#lock = lock;
  }

  /** From now on no move passes this commit. */
  static async take(url: string, column: HeldCommit): Promise<CommitHold> {
    const client = new pg.Client({ connectionString: url });
    client.on("error", () => undefined); // a server that was killed: its locks are gone with it
    await client.connect();
    await client.query("select pg_advisory_lock($1)", [locks[column]]);
    return new CommitHold(client, locks[column]);
  }

  /** True when one waits there. */
  async isReached(): Promise<boolean> {
    const { rowCount } = await this.#client.query(
      "select 1 from pg_locks where locktype = 'advisory' and objid = $1 and not granted",
      [this.#lock],
    );
    return rowCount === 1;
  }

  /** Lets it pass, as soon as the server can hear of it. */
  release(): Promise<void> {
    this.#released ??= this.#client.end();
    return this.#released;
  }
}

import { Database, type Tx } from "#cp/store/database.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";

/**
 * The database of a replica that dies right after the n-th commit of its engine: a claim, a fenced
 * transaction or a settlement.
 */
export class MortalDatabase extends Database {
  #commitsLeft: number;
  readonly died: Promise<void>;
  #die: () => void = () => undefined;

  constructor(url: string, commitsLeft: number) {
    super({ url, maxConnections: 2, log: silentLogger });
    this.#commitsLeft = commitsLeft;
    this.died = new Promise((resolve) => (this.#die = resolve));
  }

  /** Its next commit is its last. */
  doom(): void {
    this.#commitsLeft = Math.min(this.#commitsLeft, 1);
  }

  override async transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    this.#assertAlive();
    let fenced = false;
    const result = await super.transaction((tx) => {
      const post: Tx["post"] = (text, values, name) => {
        fenced ||= name === "work_fence";
        tx.post(text, values, name);
      };
      return work({ ...tx, post });
    });
    if (fenced) this.#countCommit();
    return result;
  }

  override async query<R>(text: string, values?: readonly unknown[], name?: string): Promise<R[]> {
    this.#assertAlive();
    const rows = await super.query<R>(text, values, name);
    if (name === "work_settle" || name === "capacity_promise" || (name === "work_claim" && rows.length > 0))
      this.#countCommit();
    return rows;
  }

  override async read<R>(text: string, values: readonly unknown[], name: string): Promise<R[]> {
    this.#assertAlive();
    return super.read<R>(text, values, name);
  }

  #countCommit(): void {
    if (--this.#commitsLeft > 0) return;
    this.#die();
    this.#assertAlive();
  }

  #assertAlive(): void {
    if (this.#commitsLeft <= 0) throw new Fault("unavailable", "this replica is dead", { reason: "DEAD" });
  }
}

/**
 * Statements that go to the server together and are answered together. One `Sync` ends them all, where pg's own queries
 * have one each: so the server sends once, and this process wakes once. The first that fails takes all others with it.
 * What a named statement's columns are called is told once per connection: they are the same each time, or the server
 * refuses to run it.
 *
 * This is a query class as pg lets others be written: its client calls `submit`, and then a method for each message.
 */
import pg from "pg";

export type Row = Record<string, unknown>;

/** Made by {@link toStatement}: once it is under way, nothing of it may fail on this side. */
export interface Statement {
  readonly text: string;
  readonly values: readonly (string | Buffer | null)[];
  readonly name: string | undefined;
}

export interface Answer {
  readonly rows: readonly Row[];
  /** Such as `SELECT` or `COMMIT`. */
  readonly command: string;
}

interface Column {
  readonly name: string;
  readonly parse: Parser;
}

interface Columns {
  readonly list: readonly Column[];
  /** Copied for each row, so that all have one shape. */
  readonly empty: Row;
}

interface RowDescription {
  readonly fields: readonly { readonly name: string; readonly dataTypeID: number }[];
}

/** A connection, with the books that pg's client keeps of what is prepared on it, by name. */
interface Wire {
  readonly stream: { cork(): void; uncork(): void };
  readonly parsedStatements: Record<string, string | undefined>;
  readonly submittedNamedStatements: Record<string, string | undefined>;
  parse(statement: { readonly name: string | undefined; readonly text: string }): void;
  bind(portal: { readonly statement: string | undefined; readonly values: Statement["values"] }): void;
  describe(what: { readonly type: "P" }): void;
  execute(): void;
  sync(): void;
}

const { prepareValue } = (
  pg as unknown as { utils: { prepareValue(this: void, value: unknown): string | Buffer | null } }
).utils;
const int8 = 20;
type Parser = (text: string) => unknown;

/** How the text of a column becomes a value: bigint columns hold counters and byte sizes, all below 2^53. */
export function parserOf(dataType: number, format: "text" | "binary" = "text"): Parser {
  return dataType === int8 ? Number : (pg.types.getTypeParser(dataType, format) as Parser);
}

const none: Columns = { list: [], empty: {} };
/** What the columns of prepared statements are called, by connection. */
const known = new WeakMap<Wire, Map<string, Columns>>();

/** Throws when a value has no form that could be sent. */
export function toStatement(text: string, values: readonly unknown[], name: string | undefined): Statement {
  return { text, values: values.map(prepareValue), name };
}

/** What became of a flight. With a failure, it is of the statement that comes after those that were answered. */
export interface Landing {
  readonly answers: readonly Answer[];
  readonly failure: Error | null;
}

/** Sends statements now, behind whatever is under way on this connection. */
export function fly(client: pg.ClientBase, statements: readonly Statement[]): Promise<Landing> {
  return new Promise((land) => {
    client.query(new Flight(statements, land));
  });
}

/** The rows of a flight's only statement; throws its failure. */
export function rowsOf<R>({ answers: [answer], failure }: Landing): R[] {
  if (failure !== null) throw failure;
  return (answer?.rows ?? []) as R[];
}

class Flight extends pg.Query {
  /** Of the statement that is being answered: by these the client keeps its books. */
  name: string | undefined;
  text: string | undefined;
  /** The client wraps it, to limit how long it waits. */
  readonly callback: (failure: Error | null) => void;
  readonly #statements: readonly Statement[];
  readonly #answers: Answer[] = [];
  readonly #prepared: string[] = [];
  #known = new Map<string, Columns>();
  #columns: Columns | undefined;
  #rows: Row[] = [];
  #unreadable: Error | undefined;

  constructor(statements: readonly Statement[], land: (landing: Landing) => void) {
    super("");
    this.#statements = statements;
    this.callback = (failure) => {
      land({ answers: this.#answers, failure });
    };
    this.#turnTo(statements[0]);
  }

  override readonly submit = (connection: unknown): Error | null => {
    const wire = connection as Wire;
    this.#known = known.get(wire) ?? new Map<string, Columns>();
    known.set(wire, this.#known);
    this.#turnTo(this.#statements[0]);
    const clash = this.#statements.find(({ name, text }) => (textOf(wire, name) ?? text) !== text);
    if (clash) return new Error(`two statements are called ${String(clash.name)}`);
    wire.stream.cork();
    for (const statement of this.#statements) this.#send(wire, statement);
    wire.sync();
    wire.stream.uncork();
    return null;
  };

  handleRowDescription({ fields }: RowDescription): void {
    const list = fields.map(({ name, dataTypeID }) => ({ name, parse: parserOf(dataTypeID) }));
    this.#columns = { list, empty: Object.fromEntries(list.map(({ name }) => [name, null])) };
    if (this.name !== undefined) this.#known.set(this.name, this.#columns);
  }

  handleDataRow({ fields }: { readonly fields: readonly (string | null)[] }): void {
    if (!this.#columns) return;
    const { list, empty } = this.#columns;
    const row = { ...empty };
    try {
      for (let index = 0; index < list.length; index++) {
        const column = list[index];
        const text = fields[index] ?? null;
        if (column && text !== null) row[column.name] = column.parse(text);
      }
    } catch (error) {
      this.#unreadable = error as Error;
    }
    this.#rows.push(row);
  }

  handleCommandComplete({ text }: { readonly text: string }): void {
    if (this.#unreadable !== undefined) return; // neither this answer nor those after it count
    if (this.name !== undefined && !this.#columns) this.#known.set(this.name, none);
    const [command = ""] = text.split(" ", 1);
    this.#answers.push({ rows: this.#rows, command });
    this.#rows = [];
    this.#turnTo(this.#statements[this.#answers.length]);
  }

  handleReadyForQuery(): void {
    this.callback(this.#unreadable ?? null);
  }

  /** The server has skipped what came after: it knows of none of that. */
  handleError(error: Error, connection: unknown): void {
    const { submittedNamedStatements: submitted } = connection as Wire;
    for (const name of this.#prepared) submitted[name] = undefined;
    this.callback(error);
  }

  #turnTo(statement: Statement | undefined): void {
    this.name = statement?.name;
    this.text = statement?.text;
    this.#columns = this.name === undefined ? undefined : this.#known.get(this.name);
  }

  #send(wire: Wire, { name, text, values }: Statement): void {
    if (textOf(wire, name) === undefined) {
      wire.parse({ name, text });
      if (name !== undefined) {
        wire.submittedNamedStatements[name] = text;
        this.#prepared.push(name);
      }
    }
    wire.bind({ statement: name, values });
    if (name === undefined || !this.#known.has(name)) wire.describe({ type: "P" });
    wire.execute();
  }
}

/** What is, or is about to be, prepared under this name. */
function textOf(wire: Wire, name: string | undefined): string | undefined {
  if (name === undefined) return undefined;
  return wire.parsedStatements[name] ?? wire.submittedNamedStatements[name];
}

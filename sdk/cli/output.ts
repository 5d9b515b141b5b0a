/**
 * What commands print. Tables are for people, JSON and YAML carry the resources as the API gave them.
 * Text from the cloud is never trusted with the terminal: `printable.ts`.
 */
import { stringify } from "yaml";
import { printable, printableJson } from "#kernel/printable.ts";

export const formats = ["table", "json", "yaml"] as const;
export type Format = (typeof formats)[number];

export interface Column<T> {
  readonly title: string;
  value(item: T): string;
  readonly align?: "right";
  /** Coloured by what it says, where there is colour. */
  readonly phase?: true;
}

export type Field = readonly [label: string, value: string];

export interface TextSink {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export class Output {
  readonly format: Format;
  readonly #sink: TextSink;
  readonly #colour: boolean;

  constructor(options: { readonly sink: TextSink; readonly format: Format; readonly colour: boolean }) {
    this.format = options.format;
    this.#sink = options.sink;
    this.#colour = options.colour;
  }

  /** Many of a kind. */
  list<T>(items: readonly T[], columns: readonly Column<T>[]): void {
    this.table(items, items, columns);
  }

  /** A table of the rows in some data. */
  table<T>(data: unknown, items: readonly T[], columns: readonly Column<T>[]): void {
    if (this.#printData(data)) return;
    const rows = items.map((item) => columns.map((column) => printable(column.value(item)) || "-"));
    const widths = columns.map((column, i) =>
      Math.max(widthOf(column.title), ...rows.map((row) => widthOf(row[i] ?? ""))),
    );
    const line = (cells: readonly string[], colour: boolean) =>
      columns
        .map((column, i) => {
          const padded = pad(cells[i] ?? "", widths[i] ?? 0, column.align);
          return colour && column.phase ? this.#paint(padded) : padded;
        })
        .join("  ")
        .trimEnd();
    const titles = columns.map((column) => column.title);
    this.#sink.write([line(titles, false), ...rows.map((row) => line(row, true)), ""].join("\n"));
  }

  /** One thing, as label and value; empty values are left out. */
  show(item: unknown, fields: readonly Field[]): void {
    if (this.#printData(item)) return;
    const shown = fields.filter(([, value]) => value !== "");
    const width = Math.max(...shown.map(([label]) => label.length)) + 1;
    for (const [label, value] of shown) {
      const text = printable(value, true).replaceAll("\n", `\n${" ".repeat(width + 1)}`);
      const painted = label === "phase" ? this.#paint(text) : text;
      this.#sink.write(`${`${label}:`.padEnd(width)} ${painted}\n`);
    }
  }

  /** Something that happened: a sentence for people, data for programs. */
  done(sentence: string, data: unknown): void {
    if (!this.#printData(data)) this.#sink.write(`${printable(sentence, true)}\n`);
  }

  /** Text as it is, whatever the format. */
  raw(text: string): void {
    this.#sink.write(text);
  }

  #printData(data: unknown): boolean {
    if (this.format === "json")
      this.#sink.write(`${printableJson(JSON.stringify(data ?? null, undefined, 2))}\n`);
    if (this.format === "yaml") this.#sink.write(toYaml(data ?? null));
    return this.format !== "table";
  }

  #paint(text: string): string {
    const colour = colourOf[text.trim()];
    return this.#colour && colour ? `\u001b[${colour}m${text}\u001b[0m` : text;
  }
}

const green = 32;
const yellow = 33;
const red = 31;
const colourOf: Readonly<Record<string, number>> = {
  running: green,
  available: green,
  online: green,
  done: green,
  complete: green,
  ok: green,
  failed: red,
  offline: red,
  fail: red,
  building: yellow,
  pending: yellow,
  stopping: yellow,
  deleting: yellow,
  undoing: yellow,
  migrating: yellow,
  cancelled: yellow,
  warn: yellow,
};

/** YAML quotes some characters only when it is told to quote everything. */
function toYaml(data: unknown): string {
  const text = stringify(data);
  if (printableJson(text) === text) return text;
  return printableJson(stringify(data, { defaultStringType: "QUOTE_DOUBLE" }));
}

const widthOf = (text: string): number => [...text].length;

function pad(text: string, width: number, align: "right" | undefined): string {
  const blank = " ".repeat(Math.max(0, width - widthOf(text)));
  return align === "right" ? blank + text : text + blank;
}

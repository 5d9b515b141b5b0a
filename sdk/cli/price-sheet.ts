/**
 * A price sheet as a file (YAML, and so JSON): what providers take, by region. Pure. Every mistake is told at once, each
 * with its line and field.
 *
 *     currency: EUR                 # of lines that name none
 *     prices:
 *       - provider: cellar          # without a region: wherever no region has its own
 *         cpu_per_hour: 0.02
 *         memory_per_gb: 0.004      # a GiB of memory per hour
 *         disk_gib_per_month: 0.05  # optional, as is egress_per_gib: traffic out
 */
import { isMap, isSeq, LineCounter, parseDocument, type Document, type Node } from "yaml";
import { Fault } from "#kernel/fault.ts";
import type { PriceSpec } from "../kinds/generated.ts";

interface Mistake {
  readonly line: number;
  readonly field: string;
  readonly message: string;
}

const amounts = ["cpu_per_hour", "memory_per_gb", "disk_gib_per_month", "egress_per_gib"] as const;
const required = new Set<string>(["cpu_per_hour", "memory_per_gb"]);
const lineFields = new Set<string>(["provider", "region", "currency", ...amounts]);
const mostLines = 10_000;
/** The API's. */
const mostAmount = 1_000_000;

/** Throws `invalid` PRICE_SHEET_INVALID. */
export function parsePriceSheet(text: string): readonly PriceSpec[] {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const mistakes: Mistake[] = document.errors.map(({ linePos, message }) => ({
    ...{ line: linePos?.[0].line ?? 1, field: "" },
    message: message.split("\n")[0] ?? message,
  }));
  const sheet = mistakes.length > 0 ? [] : new SheetReader(document, lines, mistakes).read();
  if (mistakes.length === 0) return sheet;
  const told = mistakes.map(({ line, field, message }) =>
    [`line ${String(line)}`, field, message].filter((part) => part !== "").join(": "),
  );
  throw new Fault("invalid", told.join("; "), {
    reason: "PRICE_SHEET_INVALID",
    detail: { mistakes: mistakes.map((mistake) => ({ ...mistake })) },
  });
}

type Path = readonly (string | number)[];

class SheetReader {
  readonly #document: Document.Parsed;
  readonly #lines: LineCounter;
  readonly #mistakes: Mistake[];

  constructor(document: Document.Parsed, lines: LineCounter, mistakes: Mistake[]) {
    this.#document = document;
    this.#lines = lines;
    this.#mistakes = mistakes;
  }

  read(): PriceSpec[] {
    const top = this.#document.contents;
    if (!isMap(top)) return this.#wrong([], "a map with the list `prices` is expected");
    this.#refuseUnknown([], new Set(["currency", "prices"]));
    const list = this.#document.get("prices", true);
    if (!isSeq(list)) return this.#wrong(["prices"], "a list of prices is expected");
    if (list.items.length > mostLines)
      return this.#wrong(["prices"], `at most ${String(mostLines)} are taken`);
    const currency = this.#document.has("currency") ? this.#currency(["currency"]) : undefined;
    const sheet = list.items.map((_, index) => this.#price(["prices", index], currency));
    this.#refuseDoubles(sheet);
    return sheet;
  }

  #price(at: Path, currency: string | undefined): PriceSpec {
    const empty = { provider: "", region: null, cpu_per_hour: 0, memory_per_gb: 0, disk_gib_per_month: 0 };
    if (!isMap(this.#document.getIn(at))) {
      this.#wrong(at, "a map is expected");
      return { ...empty, egress_per_gib: 0, currency: "" };
    }
    this.#refuseUnknown(at, lineFields);
    const [cpu, memory, disk, egress] = amounts.map((field) => this.#amount([...at, field])) as [
      number,
      number,
      number,
      number,
    ];
    const own = this.#document.hasIn([...at, "currency"]) || currency === undefined;
    return {
      provider: this.#name([...at, "provider"]),
      region: this.#isAbsent([...at, "region"]) ? null : this.#name([...at, "region"]),
      ...{ cpu_per_hour: cpu, memory_per_gb: memory, disk_gib_per_month: disk, egress_per_gib: egress },
      currency: own ? this.#currency([...at, "currency"]) : currency,
    };
  }

  #amount(at: Path): number {
    const value: unknown = this.#document.getIn(at);
    if (value === undefined && !required.has(String(at.at(-1)))) return 0;
    if (typeof value === "number" && value >= 0 && value <= mostAmount) return value;
    this.#wrong(at, value === undefined ? "is missing" : "a number of 0 or more is expected");
    return 0;
  }

  #name(at: Path): string {
    const value: unknown = this.#document.getIn(at);
    if (typeof value === "string" && value.length >= 1 && value.length <= 63) return value;
    this.#wrong(at, value === undefined ? "is missing" : "a name of 1 to 63 characters is expected");
    return "";
  }

  #currency(at: Path): string {
    const value: unknown = this.#document.getIn(at);
    if (typeof value === "string" && /^[A-Z]{3}$/.test(value)) return value;
    this.#wrong(at, value === undefined ? "is missing" : "three capital letters are expected, such as EUR");
    return "";
  }

  #isAbsent(at: Path): boolean {
    return (this.#document.getIn(at) ?? null) === null;
  }

  #refuseUnknown(at: Path, known: ReadonlySet<string>): void {
    const map = at.length === 0 ? this.#document.contents : this.#document.getIn(at, true);
    if (!isMap(map)) return;
    for (const { key } of map.items) {
      const name = String((key as { value?: unknown } | null)?.value ?? key);
      if (!known.has(name)) this.#tell(key as Node, [...at, name], "is not known");
    }
  }

  #refuseDoubles(sheet: readonly PriceSpec[]): void {
    const seen = new Set<string>();
    sheet.forEach(({ provider, region }, index) => {
      const key = JSON.stringify([provider, region]);
      if (seen.has(key)) this.#wrong(["prices", index], "this provider and region have a price above");
      seen.add(key);
    });
  }

  /** At the field, or at what should have it. */
  #wrong(at: Path, message: string): [] {
    for (let depth = at.length; depth >= 0; depth--) {
      const node = depth === 0 ? this.#document.contents : this.#document.getIn(at.slice(0, depth), true);
      if (node || depth === 0) {
        this.#tell(node as Node | null, at, message);
        break;
      }
    }
    return [];
  }

  #tell(node: Node | null, at: Path, message: string): void {
    const line = this.#lines.linePos(node?.range?.[0] ?? 0).line;
    this.#mistakes.push({ line, field: at.join("."), message });
  }
}

/** What makes the sheet of the cloud what the file says. */
export interface SheetChange {
  readonly create: readonly PriceSpec[];
  readonly update: readonly { readonly id: string; readonly spec: PriceSpec }[];
  /** Not in the file. */
  readonly others: readonly { readonly id: string; readonly spec: PriceSpec }[];
}

/** Compares the cloud's lines with the file's; equal ones are left alone. */
export function compareSheets(
  present: readonly { readonly id: string; readonly spec: PriceSpec }[],
  wanted: readonly PriceSpec[],
): SheetChange {
  const siteOf = ({ provider, region }: PriceSpec) => JSON.stringify([provider, region]);
  // Of several lines for one site the first stays: which of them counts is nobody's choice.
  const known = new Map(present.toReversed().map((line) => [siteOf(line.spec), line]));
  const kept = new Set(wanted.map((spec) => known.get(siteOf(spec))?.id));
  return {
    create: wanted.filter((spec) => !known.has(siteOf(spec))),
    update: wanted.flatMap((spec) => {
      const line = known.get(siteOf(spec));
      return line && !isSame(line.spec, spec) ? [{ id: line.id, spec }] : [];
    }),
    others: present.filter(({ id }) => !kept.has(id)),
  };
}

function isSame(a: PriceSpec, b: PriceSpec): boolean {
  return a.currency === b.currency && amounts.every((amount) => a[amount] === b[amount]);
}

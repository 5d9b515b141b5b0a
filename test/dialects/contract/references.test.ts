/** Where the references are at hand: their facts and ours are the same. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import path from "node:path";
import t from "tap";
import { root } from "#cp/local/programs.ts";
import { dialectNames, documented, type DialectName } from "./documented.ts";
import { exchanges } from "./exchanges.ts";
import { fieldsOf, readReference } from "./references.ts";

/** Beside a checkout, or beside the folder of several. */
const folder = ["../shared/contract", "../../shared/contract"]
  .map((name) => path.resolve(root, name))
  .find((name) => existsSync(name));
const files: Readonly<Record<DialectName, readonly [file: string, base: string, close: string]>> = {
  atonix: ["atonix-v1.md", "/v1", ""],
  services: ["atonix-services.md", "", "/"],
  novacron: ["novacron-v1.md", "/v1", ""],
};
/** Keys that the caller chooses. */
const chosen = /(^|\.)(tags|metadata)\./;

void t.test("no documented operation is left out", async (t) => {
  if (folder === undefined) return t.comment("the references are not here: the list is taken as it is");
  const rows = (await readFile(path.join(folder, "operations.tsv"), "utf8")).trim().split("\n").slice(1);
  for (const dialect of dialectNames) {
    const own = rows.map((row) => row.split("\t")).filter(([name]) => name === dialect);
    const expected = [...new Set(own.map(([, method = "", path = ""]) => `${method} ${path}`))];
    t.same(documented[dialect], expected, dialect);
    const known = new Set<string>(documented[dialect]);
    const tried = exchanges[dialect].map(({ operation }) => operation);
    t.same(
      tried.filter((operation) => !known.has(operation)),
      [],
      "what is tried is documented",
    );
  }
});

void t.test("no documented field of what is tried is left out", async (t) => {
  if (folder === undefined) return t.comment("the references are not here");
  for (const dialect of dialectNames) {
    const [file, base, close] = files[dialect];
    const shown = readReference(await readFile(path.join(folder, file), "utf8"), base, close);
    const own = exchanges[dialect];
    const operations = [...new Set(own.map(({ operation }) => operation))];
    t.ok(
      operations.some((operation) => (shown.get(operation)?.answer.size ?? 0) > 3),
      `${file} is read`,
    );
    for (const operation of operations) {
      const tried = own.filter((exchange) => exchange.operation === operation);
      const ours = {
        query: tried.flatMap(({ query }) => [...new URLSearchParams(query).keys()]),
        body: tried.flatMap(({ body }) => fieldsOf(body)),
        answer: tried.flatMap(({ answer }) => fieldsOf(answer)),
      };
      for (const part of ["query", "body", "answer"] as const) {
        const left = [...(shown.get(operation)?.[part] ?? [])].filter(
          (field) => !ours[part].includes(field) && !chosen.test(field),
        );
        t.same(left, [], `${operation}: ${part}`);
      }
    }
  }
});

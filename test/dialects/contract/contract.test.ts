/** Runs every documented operation that is there against a server, and says which are not. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import t from "tap";
import type { z } from "zod";
import { hostId, password, reportRunning, startApi, username, type World } from "#test/support/api-world.ts";
import { answerSchema, errorSchemaOf, hasOperation } from "#test/support/openapi.ts";
import { dialectNames, documented, type DialectName } from "./documented.ts";
import { schemaOf, type Exchange } from "./exchange.ts";
import { exchanges } from "./exchanges.ts";

type Assertions = Pick<typeof t, "equal" | "same">;

const golden = new URL("not-yet-built.txt", import.meta.url);
const references = new URL("../../../../shared/contract/operations.tsv", import.meta.url);

const problemsOf = (schema: z.ZodType | undefined, value: unknown) =>
  (schema?.safeParse(value).error?.issues ?? []).map(({ path, message }) => `${path.join(".")}: ${message}`);

void t.test("the documented operations", async (t) => {
  const world = await startApi(t);
  await prepare(world);
  const table: string[] = [];
  const missing: string[] = [];
  for (const dialect of dialectNames) {
    const document = world.documents[dialect];
    const conforming = new Set<string>();
    const known = new Map([
      ["username", username],
      ["password", password],
    ]);
    for (const exchange of exchanges[dialect]) {
      if (await conforms(t, world, document, exchange, known)) conforming.add(exchange.operation);
    }
    const left = documented[dialect].filter((operation) => !conforming.has(operation));
    for (const operation of left) await isAbsent(t, world, document, operation);
    missing.push(...left.map((operation) => `${dialect} ${operation}`));
    const figures = [documented[dialect].length, conforming.size, left.length];
    table.push([dialect.padEnd(9), ...figures.map((figure) => String(figure).padStart(12))].join(""));
  }
  t.comment(["", "dialect    documented  conforming  not yet built", ...table].join("\n"));
  t.same(
    missing,
    (await readFile(golden, "utf8")).trim().split("\n"),
    "the list of what is missing only shrinks",
  );
});

/** Sends one request and compares what comes back with the reference and with our own document. */
async function conforms(
  t: Assertions,
  world: World,
  document: unknown,
  exchange: Exchange,
  known: Map<string, string>,
): Promise<boolean> {
  const { operation, query, status, answer, keep, running } = exchange;
  const fill = (text: string) => text.replace(/\{(\w+)\}/g, (all, name: string) => known.get(name) ?? all);
  const [method = "", path = ""] = operation.split(" ");
  if (running !== undefined) await run(world, fill(`{${running}}`));
  const body = exchange.body && (JSON.parse(fill(JSON.stringify(exchange.body))) as unknown);
  const answered = await world.call(method, fill(path) + (query === undefined ? "" : `?${query}`), body);
  const problems = [
    ...problemsOf(schemaOf(answer), answered.body),
    ...problemsOf(answerSchema(document, method, path, status), answered.body),
  ];
  t.equal(answered.status, status, `${operation}: ${JSON.stringify(answered.body)}`);
  t.same(problems, [], `${operation} answers as documented`);
  for (const [name, at] of Object.entries(keep ?? {})) {
    known.set(
      name,
      String(at.reduce<unknown>((value, key) => (value as Record<string, unknown>)[key], answered.body)),
    );
  }
  return answered.status === status && problems.length === 0;
}

/** What is not there is told in the dialect's own words. */
async function isAbsent(t: Assertions, world: World, document: unknown, operation: string): Promise<void> {
  const [method = "", path = ""] = operation.split(" ");
  if (!path.startsWith("/") || method === "SUB" || hasOperation(document, method, path)) return;
  const answered = await world.call(method, path.replaceAll(/\{\w+\}/g, "x"));
  t.equal(answered.status, 404, operation);
  t.same(problemsOf(errorSchemaOf(document), answered.body), [], operation);
}

/** What the references' examples name: an image, a key pair; and samples to measure. */
async function prepare({ call, database }: World): Promise<void> {
  const aliases = ["ubuntu-20-04-lts", "ubuntu-22-04", "ami-ubuntu2204"];
  const ubuntu = { name: "ubuntu", spec: { aliases, source: { type: "upload" } } };
  for (const made of [
    await call("POST", "/skerry/v1/images", ubuntu),
    await call("POST", "/v1/compute/key-pairs", { name: "my-keypair" }),
  ]) {
    if (made.status !== 201) throw new Error(JSON.stringify(made.body));
  }
  const sample = {
    cpu_usage: 0.5,
    memory_used_bytes: 1,
    memory_total_bytes: 4,
    disk_used_bytes: 1,
    disk_total_bytes: 2,
  };
  await database.query("insert into host_sample values ($1, now(), $2)", [hostId, sample]);
}

async function run(world: World, id: string): Promise<void> {
  const canonical = `vm${id.slice(id.indexOf("-"))}`;
  await reportRunning(world, canonical);
  const sample = { cpu_usage: 0.25, memory_used_bytes: 1, memory_total_bytes: 2, network_in_bytes: 7 };
  await world.database.query("insert into machine_sample values ($1, now(), $2)", [canonical, sample]);
}

void t.test("nothing that the references document is left out", async (t) => {
  if (!existsSync(references)) {
    t.comment("the references are not here: the list is taken as it is");
    return;
  }
  const rows = (await readFile(references, "utf8")).trim().split("\n").slice(1);
  const expected: Record<DialectName, Set<string>> = {
    atonix: new Set(),
    services: new Set(),
    novacron: new Set(),
  };
  for (const row of rows) {
    const [dialect = "", method = "", path = ""] = row.split("\t");
    expected[dialect as DialectName].add(`${method} ${path}`);
  }
  for (const dialect of dialectNames) t.same(documented[dialect], [...expected[dialect]], dialect);
  const tried = dialectNames.flatMap((dialect) => exchanges[dialect].map(({ operation }) => operation));
  const all = new Set<string>(dialectNames.flatMap((dialect) => [...documented[dialect]]));
  t.same(
    tried.filter((operation) => !all.has(operation)),
    [],
    "what is tried is documented",
  );
});

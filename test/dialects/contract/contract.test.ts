/**
 * Runs every documented operation that is there against a cloud of real processes, where only the guests are fake, and
 * says which are not there yet.
 */
import { createHash } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { tmpdir } from "node:os";
import t, { type Test } from "tap";
import type { z } from "zod";
import { root } from "#cp/local/programs.ts";
import { builtInTopology } from "#cp/local/topology.ts";
import { startCloud } from "#test/support/cloud.ts";
import { answerSchema, errorSchemaOf, hasOperation } from "#test/support/openapi.ts";
import { until } from "#test/support/until.ts";
import { dialectNames, documented, type DialectName } from "./documented.ts";
import { schemaOf, type Exchange } from "./exchange.ts";
import { exchanges } from "./exchanges.ts";

const golden = path.join(root, "test/dialects/contract/not-yet-built.txt");
const patienceMs = 30_000;

/** The references' images are a disk of nothing, which will do for guests that are fake. */
const disk = path.join(tmpdir(), "contract-disk.raw");
await writeFile(disk, Buffer.alloc(1024 ** 2));
const kernel = t.testdir({ vmlinuz: "kernel", "initrd.gz": "initrd" });
const fileOf = (role: string, path: string, content: string) => ({
  ...{ role, path, size_bytes: content.length },
  sha256: createHash("sha256").update(content).digest("hex"),
});
const files = [fileOf("kernel", "vmlinuz", "kernel"), fileOf("initrd", "initrd.gz", "initrd")];
const manifest = { type: "kernel", architecture: "x86_64", command_line: "quiet", files };
await writeFile(path.join(kernel, "manifest.json"), JSON.stringify(manifest));
const cloud = await startCloud(t, {
  agents: builtInTopology.hosts.map((host) => ({ ...host, driver: "fake" as const })),
  images: { "ubuntu-22.04": disk, "ubuntu-20.04": disk, "kernel-only": kernel },
  controlPlaneEnv: { SKERRY_MICRO_DIR: "", SKERRY_OVERCOMMIT_CPUS: "100", SKERRY_OVERCOMMIT_MEMORY: "10" },
  agentEnv: { SKERRY_AGENT_SAMPLE_SECONDS: "1" },
});
await cloud.request("POST", "/v1/compute/key-pairs", { name: "my-keypair" });

/** What the exchanges call things that the cloud has from the beginning. */
const { username, password } = cloud.credentials;
const present = {
  ...{ username, password, api_key: cloud.apiKey },
  basic: Buffer.from(`${username}:${password}`).toString("base64"),
  zone: builtInTopology.hosts[0]?.zone ?? "",
  start_time: new Date(Date.now() - 3_600_000).toISOString(),
  end_time: new Date(Date.now() + 86_400_000).toISOString(),
};

type Document = Parameters<typeof answerSchema>[0];
type Known = Map<string, string>;

const problemsOf = (schema: z.ZodType | undefined, value: unknown) =>
  (schema?.safeParse(value).error?.issues ?? []).map(({ path, message }) => `${path.join(".")}: ${message}`);

void t.test("the documented operations", async (t) => {
  const table: string[] = [];
  const missing: string[] = [];
  for (const dialect of dialectNames) {
    const { body: document } = await cloud.request("GET", `/openapi/${dialect}.json`);
    const conforming = await runAll(dialect, document, t);
    const left = documented[dialect].filter((operation) => !conforming.has(operation));
    for (const operation of left) t.same(await problemsOfAbsent(document, operation), [], operation);
    missing.push(...left.map((operation) => `${dialect} ${operation}`));
    const figures = [documented[dialect].length, conforming.size, left.length];
    table.push([dialect.padEnd(9), ...figures.map((figure) => String(figure).padStart(12))].join(""));
  }
  for (const line of ["dialect    documented  conforming  not yet built", ...table]) t.comment(`| ${line}`);
  if (process.env["SKERRY_UPDATE_GOLDEN"]) await writeFile(golden, `${missing.join("\n")}\n`);
  const before = (await readFile(golden, "utf8")).trim().split("\n");
  t.same(missing, before, "the list of what is missing only shrinks (SKERRY_UPDATE_GOLDEN=1 writes it)");
});

async function runAll(
  dialect: DialectName,
  document: Document,
  t: { same(found: unknown, wanted: unknown, what: string): boolean },
): Promise<Set<string>> {
  const known: Known = new Map(Object.entries(present));
  const conforming = new Set<string>(exchanges[dialect].map(({ operation }) => operation));
  for (const exchange of exchanges[dialect]) {
    const problems = await run(exchange, document, known);
    if (!t.same(problems, [], exchange.operation)) conforming.delete(exchange.operation);
  }
  return conforming;
}

/** Sends the request; while its answer comes about by and by, until it fits. */
async function run(exchange: Exchange, document: Document, known: Known): Promise<readonly string[]> {
  let problems = await attempt(exchange, document, known);
  if (!exchange.eventually) return problems;
  await until(
    async () => problems.length === 0 || (problems = await attempt(exchange, document, known)).length === 0,
    patienceMs,
    50,
  ).catch(() => undefined); // the problems of the last answer are told
  return problems;
}

/** What is wrong with an answer, by the reference and by our own document; keeps what later ones need of it. */
async function attempt(exchange: Exchange, document: Document, known: Known): Promise<readonly string[]> {
  const { operation, query, status, keep = {} } = exchange;
  const fill = (text: string) => text.replace(/\{(\w+)\}/g, (all, name: string) => known.get(name) ?? all);
  const filled = <T>(value: T): T => JSON.parse(fill(JSON.stringify(value))) as T;
  const [method = "", path = ""] = operation.split(" ");
  const target = fill(path + (query === undefined ? "" : `?${query}`));
  const body = exchange.body && filled(exchange.body);
  const answered = await cloud.request(method, target, body, filled(exchange.headers ?? {}));
  if (answered.status !== status) return [`${String(answered.status)} ${JSON.stringify(answered.body)}`];
  const problems = [
    ...problemsOf(schemaOf(exchange.answer), answered.body),
    ...problemsOf(answerSchema(document, method, path, status), answered.body),
  ];
  if (problems.length > 0) return [...problems, JSON.stringify(answered.body)];
  for (const [name, at] of Object.entries(keep)) {
    const value = at.reduce<unknown>((value, key) => (value as Record<string, unknown>)[key], answered.body);
    known.set(name, String(value));
  }
  return [];
}

/** What is not there is told in the dialect's own words. */
async function problemsOfAbsent(document: Document, operation: string): Promise<readonly string[]> {
  const [method = "", path = ""] = operation.split(" ");
  if (!path.startsWith("/") || method === "SUB") return [];
  if (hasOperation(document, method, path)) return ["it is there, and no exchange tries it"];
  const answered = await cloud.request(method, path.replaceAll(/\{\w+\}/g, "x"));
  const problems = problemsOf(errorSchemaOf(document), answered.body);
  return answered.status === 404 ? problems : [String(answered.status), ...problems];
}

void t.test("no secret is in the list of processes", async (t) => {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    pids.map((pid) => readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")), // it has ended meanwhile
  );
  t.ok(lines.filter((line) => /control-plane|agent/.test(line)).length > 2, "the cloud's processes are seen");
  for (const [name, secret] of Object.entries({ password, apiKey: cloud.apiKey })) {
    t.same(
      lines.filter((line) => line.includes(secret)),
      [],
      name,
    );
  }
});

void t.test(
  "an instance that was terminated stays readable where the reference knows the word",
  async (t) => {
    const path = "/api/v1/services/instances/";
    const wish = { name: "short-lived", flavor: "t3-micro", image: "ami-ubuntu2204" };
    const { body: made } = await cloud.request<{ instance_id: string }>("POST", path, wish);
    const one = `${path}${made.instance_id}/`;
    t.match(await cloud.request("POST", `${one}terminate/`), {
      status: 202,
      body: { status: "terminating" },
    });
    const read = () => cloud.request<{ status: string }>("GET", one);
    await until(async () => (await read()).body.status === "terminated", patienceMs);
    const { instance_id } = made;
    t.match(await read(), { status: 200, body: { instance_id, name: wish.name, flavor_name: "t3.micro" } });
    const idsOf = async (query: string) => {
      const { body } = await cloud.request<{ instance_id: string }[]>("GET", `${path}?${query}`);
      return body.map(({ instance_id: id }) => id);
    };
    t.ok((await idsOf("status=terminated")).includes(made.instance_id));
    t.notOk((await idsOf("")).includes(made.instance_id), "a list is of what there is");
    t.equal((await cloud.request("POST", `${one}start/`)).status, 404);
    t.equal((await cloud.request("GET", `/v1/vms/${made.instance_id}`)).status, 404);
  },
);

for (const image of ["ami-ubuntu2204", "kernel-only"]) {
  void t.test(`an image of an instance of ${image} starts others, also after its end`, (t) =>
    tryImageOfInstance(t, image),
  );
}

async function tryImageOfInstance(t: Test, image: string): Promise<void> {
  const path = "/api/v1/services/";
  const one = { flavor: "t3-micro", image };
  const make = (name: string, image: string) =>
    cloud.request<{ instance_id: string }>("POST", `${path}instances/`, { ...one, name, image });
  const { body: origin } = await make("origin", image);
  const wish = { name: `golden-${image}`, os_type: "linux", size_gb: 8, instance_id: origin.instance_id };
  const made = await cloud.request<{ image_id: string }>("POST", `${path}images/`, wish);
  t.match(made, { status: 201, body: { status: "pending", upload_url: null, size_gb: 8 } });
  const statusOf = async (of: string) =>
    (await cloud.request<{ status: string }>("GET", path + of)).body.status;
  await until(async () => (await statusOf(`images/${made.body.image_id}/`)) === "available", patienceMs);
  t.equal((await cloud.request("POST", `${path}instances/${origin.instance_id}/terminate/`)).status, 202);
  const { body: heir } = await make("heir", wish.name);
  await until(async () => (await statusOf(`instances/${heir.instance_id}/`)) === "running", patienceMs);
  t.match(await cloud.request("POST", `${path}images/`, { ...wish, name: "x", instance_id: "i-0none" }), {
    status: 400,
  });
}

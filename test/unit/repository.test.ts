/** The rules that the checkout keeps as a whole: layout, import directions, sizes, generated code. */
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import t from "tap";
import ts from "typescript";
import { root } from "#cp/local/programs.ts";
import { surfaceOfGenerated, surfaceOfSource } from "#test/support/proto-surface.ts";
import { listTopLevel, readSources, type SourceFile } from "#test/support/source-tree.ts";

interface Boundary {
  readonly in: string;
  readonly never: readonly string[];
  readonly because: string;
}

const sources = await readSources();
const boundaries = JSON.parse(
  await readFile(path.join(root, ".config", "boundaries.json"), "utf8"),
) as readonly Boundary[];

await t.test("the top level holds what it should and nothing else", async (t) => {
  const visible = (await listTopLevel()).filter((name) => !name.startsWith("."));
  t.strictSame(visible, [
    "LICENSE",
    "README.md",
    "agent",
    "control-plane",
    "package-lock.json",
    "package.json",
    "proto",
    "sdk",
    "test",
    "tsconfig.json",
  ]);
});

await t.test("imports keep to their directions", async (t) => {
  t.strictSame(sources.filter(isTypeScript).flatMap(wrongImports), []);
  const folders = new Set(sources.map((file) => path.posix.dirname(file.name)));
  for (const { in: folder } of boundaries) {
    const exists = [...folders].some((name) => `${name}/`.startsWith(`${folder}/`));
    // A rule for a folder that was renamed would guard nothing.
    t.ok(exists, `there are sources in ${folder}`);
  }
});

await t.test("the check of imports sees every way to import", async (t) => {
  const ways = [
    'import { x } from "#cp/app/x.ts";',
    'import type { X } from "#cp/app/x.ts";',
    'export * from "#cp/app/x.ts";',
    'const x = await import("#cp/app/x.ts");',
  ];
  for (const text of ways) t.equal(wrongImports({ name: "agent/x.ts", text }).length, 1, text);
  t.strictSame(wrongImports({ name: "agent/x.ts", text: 'import "#kernel/id.ts";' }), []);
});

await t.test("no file is too long to read", async (t) => {
  const lengths = sources
    .filter((file) => /\.(ts|mjs|sql)$/.test(file.name))
    // Nobody writes it: it grows with every kind.
    .filter((file) => !/^sdk\/\w+\/generated\.ts$/.test(file.name))
    .map((file) => ({ name: file.name, lines: file.text.split("\n").length }));
  t.strictSame(
    lengths.filter((file) => file.lines > 800),
    [],
  );
  for (const { name, lines } of lengths.filter((file) => file.lines > 400)) {
    t.comment(`${name} has ${String(lines)} lines: it wants to be two files`);
  }
});

await t.test("nothing is left for later", async (t) => {
  const marks = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "@ts-" + "ignore", "@ts-" + "nocheck"];
  const pattern = new RegExp(`(?<![A-Za-z_])(${marks.join("|")})(?![A-Za-z])`);
  const skipped = /\bt\.(skip|todo)\(|\b(skip|todo): (true|["'`])/;
  const code = sources.filter((file) => !file.name.endsWith(".md"));
  const found = code.flatMap((file) =>
    file.text
      .split("\n")
      .map((line, index) => ({ at: `${file.name}:${String(index + 1)}`, line: line.trim() }))
      .filter(({ line }) => pattern.test(line) || (file.name.startsWith("test/") && skipped.test(line))),
  );
  t.strictSame(found, []);
});

await t.test("every test file is one that the runner finds", async (t) => {
  const strays = sources.filter(
    (file) => /\.test\.\w+$/.test(file.name) && !/^test\/.*\.test\.ts$/.test(file.name),
  );
  t.strictSame(
    strays.map((file) => file.name),
    [],
  );
});

await t.test("generated protobuf code is that of its sources", async (t) => {
  const protos = sources.filter((file) => file.name.endsWith(".proto"));
  const generated = (await listFiles(path.join(root, "proto", "gen"))).filter((name) =>
    name.endsWith("_pb.js"),
  );
  const expected = protos.map((file) => file.name.slice("proto/".length).replace(/\.proto$/, "_pb.js"));
  t.strictSame(generated.sort(), expected.sort(), "one generated file for each source");
  for (const { name, text } of protos) {
    const file = path.join(root, "proto", "gen", name.slice("proto/".length).replace(/\.proto$/, "_pb.js"));
    const surface = surfaceOfSource(text);
    t.not(surface.length, 0, `${name} declares something`);
    t.strictSame(surfaceOfGenerated(await readFile(file, "utf8")), surface, name);
  }
});

function isTypeScript(file: SourceFile): boolean {
  return file.name.endsWith(".ts");
}

function wrongImports({ name, text }: SourceFile): string[] {
  const rules = boundaries.filter((rule) => name.startsWith(`${rule.in}/`));
  if (rules.length === 0) return [];
  const imports = ts.preProcessFile(text, true, true).importedFiles.map((file) => file.fileName);
  return imports.flatMap((specifier) =>
    rules
      .filter((rule) => rule.never.some((pattern) => new RegExp(pattern).test(specifier)))
      .map((rule) => `${name} imports ${specifier}: ${rule.because}`),
  );
}

async function listFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
    .sort();
}

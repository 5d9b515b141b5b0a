/**
 * `npm run new:kind <name>`: writes a kind that works, to be changed into the one that is wanted: its definition,
 * its table in a dialect, a test, and what leads to them. `control-plane/resources/README.md` says how to go on.
 */
import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { parseArgs } from "node:util";
import { format, resolveConfig } from "prettier";
import { atonix } from "#cp/dialects/atonix/dialect.ts";
import type { Dialect } from "#cp/dialects/dialect.ts";
import { novacron } from "#cp/dialects/novacron/dialect.ts";
import { services } from "#cp/dialects/services/dialect.ts";
import { isBelow } from "#cp/http/route.ts";
import { root } from "#cp/local/programs.ts";
import { kinds } from "#cp/resources/kinds.ts";
import { definitionText, dialectText, testText, type NewKind } from "./new-kind-texts.ts";
import { camel, pascal } from "./typescript-of.ts";

const usage =
  "npm run new:kind <name> [-- --plural <name>] [--prefix <letters>] [--dialect atonix|services|novacron|none] " +
  "[--path /compute/<plural>]";
const homes: Readonly<Record<string, string>> = {
  atonix: "/compute/",
  services: "/",
  novacron: "/edge/",
  none: "",
};
const dialects: Readonly<Record<string, Dialect>> = { atonix, services, novacron };

/** Where a dialect lists its kinds: the place after which one more goes. */
const lists: Readonly<Record<string, RegExp>> = {
  atonix: /const kinds = \[[^\]]*?(?=,?\s*\];)/,
  services: /const kinds = \[[^\]]*?(?=,?\s*\];)/,
  novacron: /\.\.\.kindRoutes\(novacron, vmKind, resources\)/,
};

function readKind(args: readonly string[]): NewKind {
  const options = {
    plural: { type: "string" },
    prefix: { type: "string" },
    dialect: { type: "string", default: "atonix" },
    path: { type: "string" },
  } as const;
  const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true });
  const [name = ""] = positionals;
  const dialect = values.dialect;
  if (positionals.length !== 1 || !/^[a-z]+(-[a-z]+)*$/.test(name) || homes[dialect] === undefined) {
    throw new Error(`${usage}\n<name> is one of them in lower case, with dashes: security-group`);
  }
  const plural = values.plural ?? `${name}s`;
  const prefix = values.prefix ?? freePrefix(name.replaceAll("-", ""));
  const taken = kinds.find(
    (kind) =>
      kind.kind === name.replaceAll("-", "_") || kind.plural === plural || kind.idPrefixes.includes(prefix),
  );
  if (taken) throw new Error(`the kind ${taken.kind} has that name, plural or prefix of ids already`);
  const path = values.path ?? `${homes[dialect]}${plural}`;
  checkPath(dialects[dialect], path);
  return {
    ...{ name, plural, prefix, dialect, path },
    kind: name.replaceAll("-", "_"),
    noun: name.replaceAll("-", " "),
    camel: camel(name),
    pascal: pascal(name),
    pascals: pascal(plural),
  };
}

/** Outside of what a dialect owns, its errors would be another API's. */
function checkPath(dialect: Dialect | undefined, path: string): void {
  if (!dialect || isBelow(dialect.prefixes, dialect.base + path)) return;
  const { name, base, prefixes } = dialect;
  throw new Error(
    `${base}${path} is not ${name}'s: give a --path below one of ${prefixes.join(" ")}, ` +
      `or add to them in control-plane/dialects/${name}/dialect.ts what its reference has`,
  );
}

/** The fewest letters, three or more, that no kind has yet. */
function freePrefix(letters: string): string {
  const used = new Set(kinds.flatMap((kind) => kind.idPrefixes));
  for (let length = Math.min(3, letters.length); length <= letters.length; length++) {
    const prefix = letters.slice(0, length);
    if (!used.has(prefix)) return prefix;
  }
  throw new Error(`all prefixes of ${letters} are taken: give one with --prefix`);
}

async function write(file: string, text: string, flag: "w" | "wx"): Promise<void> {
  const target = path.join(root, file);
  const config = await resolveConfig(target, { config: path.join(root, ".config/prettier.json") });
  await mkdir(path.dirname(target), { recursive: true });
  await writeFile(target, await format(text, { ...config, filepath: target }), { flag });
  process.stdout.write(`${flag === "wx" ? "wrote" : "changed"} ${file}\n`);
}

/** Adds an import, and a line after what `after` finds. */
async function register(
  file: string,
  from: string,
  name: string,
  after: RegExp,
  line: string,
): Promise<void> {
  const text = await readFile(path.join(root, file), "utf8");
  const imports = [...text.matchAll(/^import [^;]*;$/gm)].at(-1);
  if (!imports || !after.test(text)) throw new Error(`${file} does not look as it did: add ${name} by hand`);
  const end = imports.index + imports[0].length;
  const imported = `${text.slice(0, end)}\nimport { ${name} } from "${from}";${text.slice(end)}`;
  await write(
    file,
    imported.replace(after, (found) => `${found}${line}`),
    "w",
  );
}

async function main(args: readonly string[]): Promise<void> {
  const kind = readKind(args);
  const { name, dialect } = kind;
  await write(`control-plane/resources/${name}/${name}.resource.ts`, definitionText(kind), "wx");
  const from = `./${name}/${name}.resource.ts`;
  const list = /export const kinds: [^=]*= \[[^\]]*?(?=,?\s*\];)/;
  await register("control-plane/resources/kinds.ts", from, kind.camel, list, `, ${kind.camel}`);
  const after = lists[dialect];
  if (after) {
    await write(`control-plane/dialects/${dialect}/${name}.ts`, dialectText(kind), "wx");
    const one = `${kind.camel}Kind`;
    const line = dialect === "novacron" ? `, ...kindRoutes(novacron, ${one}, resources)` : `, ${one}`;
    await register(`control-plane/dialects/${dialect}/surface.ts`, `./${name}.ts`, one, after, line);
  }
  await write(`test/unit/control-plane/${name}.test.ts`, testText(kind), "wx");
  // In a process of its own: this one has read the list of kinds before there was this one.
  const generate = ["--conditions=development", "--import=tsx", "test/support/generate-sdk.ts"];
  await promisify(execFile)(process.execPath, generate, { cwd: root });
  process.stdout.write(`generated the SDK's types\nHow to go on: control-plane/resources/README.md\n`);
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}

// TypeScript to `dist/`, when the sources have changed since the last time.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { root, run, say } from "./steps.mjs";

const sources = ["proto/kernel", "agent", "control-plane", "sdk"];
const configuration = ["package.json", "package-lock.json", "tsconfig.json", ".config/tsconfig.build.json"];
const stampFile = path.join(root, "dist", ".skerry-stamp");

/** Builds unless `dist/` is that of these very sources. */
export async function buildSources() {
  const files = [...sources.flatMap(listFiles), ...configuration];
  const stamp = digestOf(files);
  if (readStamp() === stamp) return;
  say("Building (the sources have changed, or this is the first time) ...");
  await run([process.execPath, "node_modules/typescript/bin/tsc", "-p", ".config/tsconfig.build.json"], {
    failure: "the sources do not compile",
  });
  // Migrations, and the files of the built-in guest: programs read them beside their own code.
  for (const file of files.filter((name) => sources.some((folder) => name.startsWith(`${folder}/`)))) {
    if (file.endsWith(".ts")) continue;
    const copy = path.join(root, "dist", file);
    mkdirSync(path.dirname(copy), { recursive: true });
    copyFileSync(path.join(root, file), copy);
  }
  writeFileSync(stampFile, stamp);
}

/** How a module runs from `dist/`. */
export function runBuilt(module, args = []) {
  return [process.execPath, path.join(root, "dist", `${module}.js`), ...args];
}

/** How a module runs from its source. */
export function runSource(module, args = []) {
  const flags = ["--conditions=development", "--import=tsx"];
  return [process.execPath, ...flags, path.join(root, `${module}.ts`), ...args];
}

/** All files below a folder of the checkout, relative to its top. */
export function listFiles(folder) {
  return readdirSync(path.join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(root, path.join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
}

function digestOf(files) {
  const hash = createHash("sha256");
  for (const file of files) {
    const { mtimeMs, size } = statSync(path.join(root, file));
    hash.update(`${file}\0${mtimeMs}\0${size}\n`);
  }
  return hash.digest("hex");
}

function readStamp() {
  try {
    return readFileSync(stampFile, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildSources();

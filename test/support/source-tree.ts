/** The checkout as data, for the tests of its own rules. */
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { root } from "#cp/local/programs.ts";

export interface SourceFile {
  /** Relative to the checkout, with slashes. */
  readonly name: string;
  readonly text: string;
}

const made = new Set(["node_modules", "dist"]);
const generated = "proto/gen/";
const written = /\.(ts|mjs|proto|sql|json|ya?ml|sh|md)$|^\.ci\/run$/;

/** Names at the top of the checkout, but for what git does not keep. */
export async function listTopLevel(): Promise<string[]> {
  const names = await readdir(root);
  return names.filter((name) => !made.has(name) && !isMadeHere(name)).sort();
}

/** Every file that a person wrote. */
export async function readSources(): Promise<SourceFile[]> {
  const names = await listFiles("");
  const chosen = names.filter((name) => written.test(name) && !name.startsWith(generated));
  return Promise.all(
    chosen
      .filter((name) => name !== "package-lock.json")
      .map(async (name) => ({ name, text: await readFile(path.join(root, name), "utf8") })),
  );
}

async function listFiles(folder: string): Promise<string[]> {
  const entries = await readdir(path.join(root, folder), { withFileTypes: true });
  const lists = entries
    .filter((entry) => !made.has(entry.name) && !(folder === "" && isMadeHere(entry.name)))
    .map(async (entry) => {
      const name = folder === "" ? entry.name : `${folder}/${entry.name}`;
      return entry.isDirectory() ? listFiles(name) : [name];
    });
  return (await Promise.all(lists)).flat().sort();
}

/** Data folders, tap's own, git's. */
function isMadeHere(name: string): boolean {
  return name === ".git" || name === ".tap" || name.startsWith(".skerry");
}

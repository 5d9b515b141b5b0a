// The tests to `dist/test/`: run beside the built product they start in a third of the time that it takes to load every
// module as TypeScript, and what they try is what users run. Types are not looked at; `npm run check` does that.
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { listFiles } from "./build.mjs";
import { root } from "./steps.mjs";

/** The condition under which `#test/...` is `dist/test/...`. */
export const builtTests = "built-tests";

/** Translates what has changed since the last time; throws where a file is no TypeScript. */
export async function buildTests() {
  const sources = listFiles("test").filter((file) => file.endsWith(".ts"));
  const stale = sources.filter((file) => isNewer(file, outputOf(file)));
  if (stale.length > 0) {
    const { default: ts } = await import("typescript");
    for (const file of stale) writeTranslated(ts, file);
  }
  // A file that is no more would still be found by whoever imports it.
  const wanted = new Set(sources.map(outputOf));
  for (const file of listFiles("dist/test")) {
    if (!wanted.has(file.replace(/\.map$/, ""))) rmSync(path.join(root, file));
  }
}

/** Where a test's translation is, relative to the checkout. */
const outputOf = (file) => path.join("dist", file.replace(/\.ts$/, ".js"));

function isNewer(file, output) {
  const made = statSync(path.join(root, output), { throwIfNoEntry: false });
  return !made || made.mtimeMs < statSync(path.join(root, file)).mtimeMs;
}

function writeTranslated(ts, file) {
  const { outputText, sourceMapText } = ts.transpileModule(readFileSync(path.join(root, file), "utf8"), {
    fileName: path.basename(file),
    compilerOptions: {
      target: ts.ScriptTarget.ES2023,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
      rewriteRelativeImportExtensions: true,
      sourceMap: true,
      sourceRoot: path.relative(path.dirname(outputOf(file)), path.dirname(file)),
    },
  });
  const output = path.join(root, outputOf(file));
  mkdirSync(path.dirname(output), { recursive: true });
  writeFileSync(output, outputText);
  writeFileSync(`${output}.map`, sourceMapText);
}

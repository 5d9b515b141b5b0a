// The test runner, built with the plugins that package.json asks for.
import { readFileSync } from "node:fs";
import path from "node:path";
import { root, run, say } from "./steps.mjs";

/**
 * Builds tap anew when it comes with a plugin that is not wanted. tap would do so by itself, but only
 * after it has loaded the old set, and with that the first run of a fresh clone fails.
 */
export async function ensureTapPlugins() {
  const { tap } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));
  const unwanted = tap.plugin.filter((name) => name.startsWith("!")).map((name) => name.slice(1));
  if (!readPlugins().some((name) => unwanted.includes(name))) return;
  say("Building the test runner (with the plugins that package.json names) ...");
  await run([process.execPath, "node_modules/tap/dist/esm/run.mjs", "build"], {
    failure: "the test runner could not be built",
  });
}

/** The plugins inside, from the signature that tap itself compares; one a line. */
function readPlugins() {
  const built = path.join(root, "node_modules", "@tapjs", "test", "test-built", "dist", "esm", "index.js");
  return /^export const signature = `([^`]*)`/m.exec(readFileSync(built, "utf8"))?.[1].split("\n") ?? [];
}

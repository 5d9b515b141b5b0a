import { readFileSync } from "node:fs";
import path from "node:path";
import { root, SetupError } from "./steps.mjs";

/** The oldest Node is the one that package.json names, in the form ">=20.19". */
export function requireNode(version = process.versions.node) {
  const { engines } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));
  const oldest = engines.node.replace(/^>=/, "");
  const [major, minor] = version.split(".").map(Number);
  const [oldestMajor, oldestMinor] = oldest.split(".").map(Number);
  if (major > oldestMajor || (major === oldestMajor && minor >= oldestMinor)) return;
  throw new SetupError(`Skerry needs Node ${oldest} or newer; this is ${version}`);
}

// npm's packages, exactly as the lock file says.
import { readFileSync } from "node:fs";
import path from "node:path";
import { root, run, say } from "./steps.mjs";

/**
 * Runs `npm ci` unless what is installed is what the lock file asks for. @param needed optional packages that are
 * needed all the same, as places in the lock file
 */
export async function ensureNpmPackages(needed = []) {
  const wanted = readPackages(path.join(root, "package-lock.json"));
  // npm writes this last, so an installation that was cut off has none.
  const installed = readPackages(path.join(root, "node_modules", ".package-lock.json"));
  const reason = !installed ? "they are not installed yet" : findDifference(wanted, installed, needed);
  if (!reason) return;
  say(`Installing npm packages (${reason}) ...`);
  // Types and tests need the development packages, whatever NODE_ENV says.
  await run(["npm", "ci", "--include=dev", "--no-audit", "--no-fund"], {
    failure: "the npm packages could not be installed",
    retries: 2,
  });
}

/** Why the installed set is not the wanted one; undefined when it is. Optional ones may be missing. */
export function findDifference(wanted, installed, needed = []) {
  for (const [name, { version, optional, devOptional, peer }] of Object.entries(wanted)) {
    if (name === "") continue;
    const found = installed[name];
    if (!found && (optional || devOptional || peer) && !needed.includes(name)) continue;
    if (found?.version !== version) return `${name} is ${found?.version ?? "missing"}, wanted is ${version}`;
  }
  return undefined;
}

function readPackages(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8")).packages;
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

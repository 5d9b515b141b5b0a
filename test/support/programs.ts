/** How tests run the product's programs. */
import path from "node:path";
import type { Argv } from "#cp/local/child.ts";
import { nodeProgram, root } from "#cp/local/programs.ts";

/** Set by `npm test`, which has built the sources first. */
export const builtVariable = "SKERRY_TEST_BUILT";

/**
 * From the build, as users run it, where `npm test` has made one; a test file run by hand takes the sources as they
 * are.
 *
 * @param module path of a module without its suffix, such as `agent/main`
 */
export function programOf(module: string): Argv {
  if (process.env[builtVariable] === undefined) return nodeProgram(module);
  return [process.execPath, path.join(root, "dist", `${module}.js`)];
}

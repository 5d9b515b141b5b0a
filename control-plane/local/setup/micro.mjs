// The built-in image, made once; its builder has the last word on whether it is still good.
import { existsSync, mkdirSync, statSync, utimesSync } from "node:fs";
import path from "node:path";
import { listFiles } from "./build.mjs";
import { root, run, say } from "./steps.mjs";

/**
 * Gives the folder with the image. Asks the builder only when there is none or the recipe was touched:
 * starting it costs a second start more than it has to spare.
 * @param program how a module is run: from `dist/` or from its source
 */
export async function buildMicro(directory, program) {
  if (process.env.SKERRY_MICRO_DIR) return process.env.SKERRY_MICRO_DIR;
  const manifest = path.join(directory, "manifest.json");
  const changed = Math.max(
    ...listFiles("agent/images/micro").map((file) => statSync(path.join(root, file)).mtimeMs),
  );
  if (existsSync(manifest) && statSync(manifest).mtimeMs >= changed) return directory;
  mkdirSync(path.dirname(directory), { recursive: true, mode: 0o700 }); // the data folder is nobody else's
  say("Building the image `micro` from the distribution's kernel and busybox ...");
  await run(program("agent/images/micro/build", [directory]), { failure: "the image could not be built" });
  const now = new Date();
  utimesSync(manifest, now, now);
  return directory;
}

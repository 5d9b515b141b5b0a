import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** The lines of a fake guest's console, of a machine with this folder: `token counter`. */
export async function readTicks(directory: string): Promise<readonly string[]> {
  const log = await readFile(join(directory, "console.log"), "latin1").catch(() => "");
  return [...log.matchAll(/^tick (.*)\r$/gm)].map(([, tick = ""]) => tick);
}

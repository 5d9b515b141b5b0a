import { readFile } from "node:fs/promises";
import { Fault } from "#kernel/fault.ts";

/** A file that the user has named. */
export async function readText(path: string): Promise<string> {
  return readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new Fault("invalid", `cannot read ${path}: ${error.code ?? error.message}`, {
      reason: "FILE_UNREADABLE",
      cause: error,
    });
  });
}

/** A public key is one line with a type and a blank; anything else is the name of a file with one. */
export const readKey = async (text: string): Promise<string> =>
  /^[a-z0-9@.-]+ \S/.test(text) ? text : (await readText(text)).trim();

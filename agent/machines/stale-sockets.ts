import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";

/** Takes away the sockets that an agent which was killed left in a machine's folder: nobody listens on them any more. */
export async function removeStaleSockets(directory: string): Promise<void> {
  const entries = await readdir(directory, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return []; // nothing was kept
    throw error;
  });
  for (const entry of entries) if (entry.isSocket()) await rm(join(directory, entry.name), { force: true });
}

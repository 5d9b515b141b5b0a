/**
 * One agent per data folder: two would run every machine twice. The lock is a socket without a file, so
 * the kernel lets go of it however the agent ends.
 */
import { createHash } from "node:crypto";
import { realpath } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import { Fault } from "#kernel/fault.ts";

/** Throws `conflict` AGENT_ALREADY_RUNNING when another process holds the folder. */
export async function lockFolder(directory: string): Promise<AsyncDisposable> {
  const name = createHash("sha256")
    .update(await realpath(directory))
    .digest("hex")
    .slice(0, 32);
  const server = createServer((socket) => socket.destroy());
  server.listen(`\0skerry-agent-${name}`);
  try {
    await once(server, "listening");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EADDRINUSE") throw cause;
    throw new Fault("conflict", "another agent uses this data folder", {
      reason: "AGENT_ALREADY_RUNNING",
      cause,
    });
  }
  server.unref();
  return {
    [Symbol.asyncDispose]: async () => {
      server.close();
      await once(server, "close");
    },
  };
}

import { createServer, type AddressInfo } from "node:net";
import { once } from "node:events";
import { Fault } from "#kernel/fault.ts";

/** Throws `conflict` PORT_TAKEN, naming the setting that changes it, when the port cannot be listened on. */
export async function requireFreePort(host: string, port: number, setting: string): Promise<void> {
  const server = createServer();
  server.listen({ host, port, exclusive: true });
  try {
    await once(server, "listening");
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const why =
      code === "EADDRINUSE" ? "is in use" : `cannot be used on ${host} (${code ?? "unknown error"})`;
    throw new Fault("conflict", `port ${String(port)} ${why}: free it, or set ${setting} to another one`, {
      reason: "PORT_TAKEN",
      cause,
    });
  }
  server.close();
  await once(server, "close");
}

/** A port of loopback that nothing listens on now. */
export async function pickFreePort(): Promise<number> {
  const server = createServer();
  server.listen({ host: "127.0.0.1", port: 0 });
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

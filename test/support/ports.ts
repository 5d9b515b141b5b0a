import { requireFreePort } from "#cp/local/ports.ts";
import { isFault } from "#kernel/fault.ts";

/** Below the ports that the kernel gives to outgoing connections, which come and go all the time. */
const lowest = 20_000;
const highest = 32_000;

/** A free port of loopback that a program can be told to listen on, now and after its restart. */
export async function pickPort(): Promise<number> {
  for (let attempt = 0; ; attempt++) {
    const port = lowest + Math.floor(Math.random() * (highest - lowest));
    try {
      await requireFreePort("127.0.0.1", port, "the test's port");
      return port;
    } catch (error) {
      if (!isFault(error, "conflict") || attempt >= 20) throw error;
    }
  }
}

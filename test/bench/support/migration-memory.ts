/**
 * What a machine's memory costs. Where the machine is a guest itself, its hypervisor takes free memory back after some
 * seconds, and the next to touch it waits some twenty times as long: 3 to 8 ms for 2 MiB, measured. Whether a move finds
 * memory of the one or of the other sort is chance, and may be a third of all that it does. So it can be made sure of.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

const run = promisify(execFile);
/** Twice the guests' memory: the kernel hands out other pages first. */
const bytes = 2 ** 31;
const limitMs = 60_000;

/** Has memory as a hypervisor has it, in huge pages, and gives it back, so that the next one finds it at hand. */
export async function touchMemory(hypervisor: string, signal: AbortSignal): Promise<void> {
  const memory = `memory-backend-ram,id=memory,size=${String(bytes)},prealloc=on`;
  const args = ["-machine", "none", "-nodefaults", "-display", "none", "-monitor", "stdio"];
  const running = run(hypervisor, [...args, "-object", memory], { signal, timeout: limitMs });
  running.child.stdin?.on("error", () => undefined); // it has ended before, and says why
  running.child.stdin?.end("quit\n");
  await running;
}

/** Where the memory of a QEMU that waits for its guest lies, so that it can be written from outside. */
import { open, readFile } from "node:fs/promises";
import { Fault } from "#kernel/fault.ts";
import type { GuestMemory } from "#agent/migration/guest-memory.ts";
import type { Platform } from "../../hypervisor/platform.ts";
import type { RunningMachine } from "../running-machine.ts";

/**
 * The guest's main memory, through the kernel's file of QEMU's own address space: pages that are written there count as
 * QEMU's, as if it had done it. Only for a QEMU that stands still and was started to take a guest in; its memory is empty then.
 * @throws Fault `denied` where the kernel forbids it, and `internal` for a QEMU that does not say where its memory is
 */
export async function openGuestMemory(
  machine: RunningMachine,
  { memoryStart }: Platform,
  signal: AbortSignal,
): Promise<GuestMemory> {
  // Opened first: that this QEMU answers afterwards tells that the file is not that of a later process with its pid.
  const file = await open(`/proc/${String(machine.pid)}/mem`, "r+").catch((cause: unknown) => {
    throw new Fault("denied", "QEMU's memory may not be written from outside", { cause });
  });
  try {
    const line = `gpa2hva 0x${memoryStart.toString(16)}`;
    const [answer, { "base-memory": bytes }] = await Promise.all([
      machine.execute("human-monitor-command", { "command-line": line }, signal),
      machine.execute("query-memory-size-summary", {}, signal),
    ]);
    const { name, position } = parseAddress(answer);
    if (!isMapped(await readFile(`/proc/${String(machine.pid)}/maps`, "utf8"), position, bytes))
      throw unclear(answer);
    return { name, bytes, position, descriptor: file.fd, [Symbol.asyncDispose]: () => file.close() };
  } catch (thrown) {
    await file.close();
    throw thrown;
  }
}

/** As QEMU's own source words it, for people: `Host virtual address for 0x0 (pc.ram) is 0x7f1b93e00000`. */
function parseAddress(answer: string): { readonly name: string; readonly position: number } {
  const found = /^Host virtual address for 0x[0-9a-f]+ \((.+)\) is (0x[0-9a-f]+)\s*$/.exec(answer);
  const [, name, address] = found ?? [];
  const position = Number(address);
  if (name === undefined || !Number.isSafeInteger(position)) throw unclear(answer);
  return { name, position };
}

/** All of it is in one mapping that its process may write. */
function isMapped(maps: string, position: number, bytes: number): boolean {
  return maps.split("\n").some((line) => {
    const [, from = "", end = "", may] = /^([0-9a-f]+)-([0-9a-f]+) (rw)/.exec(line) ?? [];
    return may !== undefined && parseInt(from, 16) <= position && position + bytes <= parseInt(end, 16);
  });
}

function unclear(answer: string): Fault {
  return new Fault("internal", "QEMU does not say where its guest's memory is", { detail: { answer } });
}

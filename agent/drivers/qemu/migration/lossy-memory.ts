/** What QEMU would lose a part of when it moves. */
import { Fault } from "#kernel/fault.ts";
import { readMemory } from "../hotplug.ts";
import type { RunningMachine } from "../running-machine.ts";

/** From here on QEMU notices all that an emulated guest writes between rounds. */
const soundVersion = 9;

export const addedMemory = "added_memory";

/**
 * Whether memory would arrive in part: of an emulated guest that was given some while it ran QEMU before 9.0 misses part of
 * what is written there (see `memory` in argv.ts, whose remedy this memory, in whole MiB, cannot have), and the guest
 * falls over after the move. After a restart it has the same memory from the start, and moves.
 */
export async function isMemoryLossy(
  machine: RunningMachine,
  { pluggedBytes, emulated }: { readonly pluggedBytes: bigint; readonly emulated: boolean },
  signal: AbortSignal,
): Promise<boolean> {
  if (pluggedBytes === 0n || !emulated) return false;
  const { qemu } = await machine.execute("query-version", {}, signal);
  return qemu.major < soundVersion;
}

/** Throws `conflict` MOVE_BLOCKED when it would. */
export async function refuseLossyMemory(machine: RunningMachine, signal: AbortSignal): Promise<void> {
  const [{ pluggedBytes }, kvm] = await Promise.all([
    readMemory(machine, signal),
    machine.execute("query-kvm", {}, signal),
  ]);
  if (!(await isMemoryLossy(machine, { pluggedBytes, emulated: !kvm.enabled }, signal))) return;
  throw new Fault("conflict", "memory that was added while it ran cannot move before a restart", {
    reason: "MOVE_BLOCKED",
    detail: { blocker: addedMemory },
  });
}

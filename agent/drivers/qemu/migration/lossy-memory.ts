/** What QEMU would lose a part of when it moves. */
import { Fault } from "#kernel/fault.ts";
import type { HostAbilities } from "../../hypervisor/host.ts";
import { readMemory } from "../hotplug.ts";
import type { RunningMachine } from "../running-machine.ts";

/** From here on QEMU notices all that an emulated guest writes between rounds. */
const soundVersion = 9;

/**
 * Refuses to move an emulated guest that was given memory while it ran: QEMU before 9.0 misses some of what is written there
 * (see `memory` in argv.ts, whose remedy this memory, in whole MiB, cannot have), and the guest falls over after the
 * move. Throws `conflict` MOVE_BLOCKED; after a restart it has the same memory from the start, and moves.
 */
export async function refuseLossyMemory(
  { acceleration, version }: Pick<HostAbilities, "acceleration" | "version">,
  machine: RunningMachine,
  signal: AbortSignal,
): Promise<void> {
  if (acceleration !== "tcg" || Number.parseInt(version) >= soundVersion) return;
  const { pluggedBytes } = await readMemory(machine, signal);
  if (pluggedBytes === 0n) return;
  throw new Fault("conflict", "memory that was added while it ran cannot move before a restart", {
    reason: "MOVE_BLOCKED",
    detail: { blocker: "added_memory" },
  });
}

/**
 * The agent's start: what the ledger wants, held against what still runs. Machines that run are taken
 * up as they are; those that should run and do not (the host was rebooted, or they died meanwhile) are
 * started again, and half-done work is carried on, all without the control plane.
 */
import type { MachinePlan } from "../drivers/driver.ts";
import { isTombstone, type LedgerEntry } from "./entry.ts";
import { withHostPorts } from "./host-ports.ts";
import type { MachineDeps } from "./machine-deps.ts";
import type { MachineManager } from "./manager.ts";

/** Runs once, before the agent serves. */
export async function recoverMachines(
  manager: MachineManager,
  { ledger, driver, directoryOf, log, now }: MachineDeps,
  signal: AbortSignal,
): Promise<void> {
  const startedMs = now();
  const entries = ledger.list().filter((entry) => !isTombstone(entry));
  const plans = entries.flatMap((entry) => planOf(entry, directoryOf) ?? []);
  const found = new Map((await driver.recover(plans, signal)).map((machine) => [machine.id, machine]));
  for (const { id } of entries) manager.adopt(id, found.get(id));
  const running = [...found.values()].filter(({ state }) => state !== "stopped").length;
  log.info("agent.recovered", { machines: entries.length, running, ms: now() - startedMs });
}

/** Undefined when the driver was never asked to make it, or is only asked to remove it. */
function planOf(
  { id, intent, progress }: LedgerEntry,
  directoryOf: MachineDeps["directoryOf"],
): MachinePlan | undefined {
  if (!intent.spec || !progress.image) return undefined;
  const spec = withHostPorts(intent.spec, progress.hostPorts);
  return { id, spec, image: progress.image, directory: directoryOf(id), devices: progress.devices };
}

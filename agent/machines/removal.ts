/** How a machine leaves this host: at once, or with its disks kept for a while, and those in their turn. */
import { deadline } from "#kernel/retry.ts";
import { type LedgerEntry, isTombstone, newProgress } from "./entry.ts";
import type { MachineDeps } from "./machine-deps.ts";
import { removeStaleSockets } from "./stale-sockets.ts";

/** Commands for the machine wait meanwhile. */
const dropLimitMs = 60_000;

/** Has the driver remove the machine, and notes that it is gone, in the way its intent says. */
export async function removeFromHost(
  { driver, ledger, directoryOf, now }: MachineDeps,
  { id, intent }: LedgerEntry,
  signal: AbortSignal,
): Promise<void> {
  const { fence, keepDisksSeconds = 0, adoptionEnd } = intent;
  const keepDisks = keepDisksSeconds > 0;
  const directory = directoryOf(id);
  await driver.remove(id, directory, signal, { keepDisks, ...(adoptionEnd && { adoptionEnd }) });
  if (keepDisks) await removeStaleSockets(directory);
  const seq = ledger.nextSeq(id);
  const atMs = now();
  const keptUntilMs = keepDisks ? atMs + keepDisksSeconds * 1000 : undefined;
  await ledger.note(id, { ...newProgress(seq), gone: { atMs, fence }, keptUntilMs });
}

/** Deletes the disks that were kept of a machine that has not come back. What fails is noted as kept still. */
export async function dropKept({ driver, ledger, directoryOf, log }: MachineDeps, id: string): Promise<void> {
  const entry = ledger.find(id);
  if (!entry || !isTombstone(entry) || entry.progress.keptUntilMs === undefined) return;
  using limit = deadline(dropLimitMs, "deleting disks that were kept");
  try {
    await driver.remove(id, directoryOf(id), limit);
    await ledger.note(id, { keptUntilMs: undefined });
    log.info("disks.dropped", { machine: id });
  } catch (fault) {
    log.error("disks.drop", { machine: id, fault });
  }
}

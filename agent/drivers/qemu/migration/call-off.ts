/**
 * Ends a move at the source as if it had not been: nothing is copied any more and the guest runs. For the caller who knows
 * that the move was not committed; a guest that had been handed over comes back too.
 */
import { deadline } from "#kernel/retry.ts";
import type { RunningMachine } from "../running-machine.ts";
import { readSituation, type Situation } from "./situation.ts";

const limitMs = 40_000;
const pollMs = 100;
const ended: ReadonlySet<string> = new Set(["none", "completed", "failed", "cancelled"]);

export async function callOff(machine: RunningMachine, parent: AbortSignal): Promise<void> {
  using signal = deadline(limitMs, "calling the move off", parent);
  // The guest first: it may stand still.
  await resume(machine, signal);
  await dropCopies(machine, signal);
}

async function resume(machine: RunningMachine, signal: AbortSignal): Promise<void> {
  const isOver = ({ migration }: Situation) => ended.has(migration.status ?? "none");
  const before = await readSituation(machine, signal);
  if (!isOver(before)) await machine.execute("migrate_cancel", {}, signal);
  const { runState } = await waitFor(machine, isOver, signal);
  // QEMU lets the guest of a cancelled migration go on by itself; one that was complete waits to be told.
  if (runState === "postmigrate" || runState === "paused") await machine.execute("cont", {}, signal);
}

async function dropCopies(machine: RunningMachine, signal: AbortSignal): Promise<void> {
  const { disks } = await readSituation(machine, signal);
  const copying = disks.filter(({ job }) => job && job.status !== "concluded");
  for (const { disk } of copying)
    await machine.execute("block-job-cancel", { device: disk.job, force: true }, signal);
  const { disks: left } = await waitFor(
    machine,
    (now) => now.disks.every(({ job }) => !job || job.status === "concluded"),
    signal,
  );
  for (const { disk, job } of left) {
    if (job) await machine.execute("job-dismiss", { id: disk.job }, signal);
    await dropTarget(machine, disk.target, signal);
  }
}

/** Removes a node if it is there. */
export async function dropTarget(machine: RunningMachine, node: string, signal: AbortSignal): Promise<void> {
  const nodes = await machine.execute("query-named-block-nodes", { flat: true }, signal);
  if (nodes.some((other) => other["node-name"] === node))
    await machine.execute("blockdev-del", { "node-name": node }, signal);
}

async function waitFor(
  machine: RunningMachine,
  holds: (now: Situation) => boolean,
  signal: AbortSignal,
): Promise<Situation> {
  for (;;) {
    const seen = machine.eventCount;
    const now = await readSituation(machine, signal);
    if (holds(now)) return now;
    await machine.eventAfter(seen, pollMs, signal);
  }
}

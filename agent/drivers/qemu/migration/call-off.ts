/**
 * Ends a move at the source as if it had not been: nothing is copied any more and the guest runs. For the caller who knows
 * that the move was not committed; a guest that had been handed over comes back too.
 */
import { isFault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import type { YankInstance } from "#agent/qmp/commands.ts";
import type { RunningMachine } from "../running-machine.ts";
import { dropDelta } from "./delta-copy.ts";
import { readSituation, type Situation } from "./situation.ts";

const limitMs = 40_000;
const pollMs = 100;
const ended: ReadonlySet<string> = new Set(["none", "completed", "failed", "cancelled"]);

export async function callOff(machine: RunningMachine, parent: AbortSignal): Promise<void> {
  using signal = deadline(limitMs, "calling the move off", parent);
  await cut(machine, ({ type }) => type === "migration", signal);
  // The guest first: it may stand still.
  await resume(machine, signal);
  await dropCopies(machine, signal);
}

/** Shuts connections down, out of turn: QEMU may hang until the other host answers, and the guest with it. */
async function cut(
  machine: RunningMachine,
  isMeant: (instance: YankInstance) => boolean,
  signal: AbortSignal,
): Promise<void> {
  const instances = (await machine.urge("query-yank", {}, signal)).filter(isMeant);
  try {
    if (instances.length > 0) await machine.urge("yank", { instances }, signal);
  } catch (thrown) {
    // It has ended by itself.
    if (!isFault(thrown) || thrown.reason !== "QMP_COMMAND_FAILED") throw thrown;
  }
}

async function resume(machine: RunningMachine, signal: AbortSignal): Promise<void> {
  const { runState } = await cancelStream(machine, signal);
  // QEMU lets the guest of a cancelled migration go on by itself; one that was complete waits to be told.
  if (runState === "postmigrate" || runState === "paused") await machine.execute("cont", {}, signal);
}

/** Ends the stream of memory, if there is one; how all is after that. */
export async function cancelStream(machine: RunningMachine, signal: AbortSignal): Promise<Situation> {
  const isOver = ({ migration }: Situation) => ended.has(migration.status ?? "none");
  const before = await readSituation(machine, signal);
  if (isOver(before)) return before;
  await machine.execute("migrate_cancel", {}, signal);
  return await waitFor(machine, isOver, signal);
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
    await dropDelta(machine, disk, signal);
  }
}

/**
 * Removes a node if it is there. QEMU 7.2 hangs when it closes one whose connection is open, and a copy whose connection
 * it has cut while something was on its way never ends: so it is cut after the one and before the other.
 */
async function dropTarget(machine: RunningMachine, target: string, signal: AbortSignal): Promise<void> {
  const nodes = await machine.execute("query-named-block-nodes", { flat: true }, signal);
  if (!nodes.some((node) => node["node-name"] === target)) return;
  await cut(machine, (instance) => instance["node-name"] === target, signal);
  await machine.execute("blockdev-del", { "node-name": target }, signal);
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

/** The destination of a move: a QEMU that stands still, takes in disk and memory, and runs once it is told to. */
import type { Duplex } from "node:stream";
import { connectSocket } from "../../hypervisor/files.ts";
import type { Move } from "#gen/skerry/agent/v1/migration_pb.js";
import type { RunningMachine } from "../running-machine.ts";
import { isFault } from "#kernel/fault.ts";
import { diskSocketName, memorySocketName, movedDisks, channelEnd, withShortPath } from "./channels.ts";
import { capabilityList } from "./limits.ts";

const arrivalPollMs = 20;

/** Opens what is not open yet of the ways in. */
export async function openWaysIn(
  machine: RunningMachine,
  directory: string,
  move: Move,
  signal: AbortSignal,
): Promise<void> {
  await openDisks(machine, directory, signal);
  const { status, "socket-address": listening } = await machine.execute("query-migrate", {}, signal);
  if (status !== undefined || listening !== undefined) return;
  await machine.execute("migrate-set-capabilities", { capabilities: capabilityList(move) }, signal);
  await withShortPath(directory, memorySocketName, (path) =>
    machine.execute("migrate-incoming", { uri: `unix:${path}` }, signal),
  );
}

async function openDisks(machine: RunningMachine, directory: string, signal: AbortSignal): Promise<void> {
  if (await hasArrived(machine, signal)) return;
  const exports = await machine.execute("query-block-exports", {}, signal);
  const missing = movedDisks.filter(({ name }) => !exports.some(({ id }) => id === name));
  if (missing.length === 0) return;
  if (exports.length === 0) {
    // One that was started just before an agent died has no exports, and refuses to be started twice.
    await stopServer(machine, signal);
    await withShortPath(directory, diskSocketName, (path) =>
      machine.execute("nbd-server-start", { addr: { type: "unix", data: { path } } }, signal),
    );
  }
  for (const { name, node } of missing) {
    const way = { type: "nbd", id: name, name, "node-name": node, writable: true } as const;
    await machine.execute("block-export-add", way, signal);
  }
}

/** Closes the disks' way in. That it is closed already is fine. */
export async function stopServer(machine: RunningMachine, signal: AbortSignal): Promise<void> {
  try {
    await machine.execute("nbd-server-stop", {}, signal);
  } catch (thrown) {
    if (!isFault(thrown) || thrown.reason !== "QMP_COMMAND_FAILED") throw thrown;
  }
}

/** A new connection to the end of a channel. */
export async function openChannel(directory: string, channel: string, signal: AbortSignal): Promise<Duplex> {
  return await connectSocket(directory, channelEnd(channel), signal);
}

/** The whole machine is here: its memory was loaded, which the source sends after its disks. */
export async function hasArrived(machine: RunningMachine, signal: AbortSignal): Promise<boolean> {
  const [{ status: runState }, { status }] = await Promise.all([
    machine.execute("query-status", {}, signal),
    machine.execute("query-migrate", {}, signal),
  ]);
  return status === "completed" && runState !== "inmigrate";
}

/** True once it has arrived; false when it has not within `limitMs`. */
export async function arrivesWithin(
  machine: RunningMachine,
  limitMs: number,
  signal: AbortSignal,
): Promise<boolean> {
  const until = performance.now() + limitMs;
  for (;;) {
    const seen = machine.eventCount;
    if (await hasArrived(machine, signal)) return true;
    if (performance.now() >= until) return false;
    await machine.eventAfter(seen, arrivalPollMs, signal);
  }
}

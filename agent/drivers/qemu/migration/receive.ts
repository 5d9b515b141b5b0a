/** The destination of a move: a QEMU that stands still, takes in disk and memory, and runs once it is told to. */
import type { Duplex } from "node:stream";
import { connectSocket } from "../../hypervisor/files.ts";
import { type Move, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import type { GuestModel, MachinePlan } from "../../driver.ts";
import { deriveColdShape, deriveShape } from "../launch.ts";
import type { RunningMachine } from "../running-machine.ts";
import { type GuestShape, parseShape } from "../shape.ts";
import { Fault, isFault } from "#kernel/fault.ts";
import { dropAllBitmaps } from "./baseline.ts";
import {
  channelEnd,
  diskSocketName,
  exportOf,
  memorySocketName,
  movedDisks,
  withShortPath,
} from "./channels.ts";
import { capabilityList } from "./limits.ts";
import { moveLost } from "./refusals.ts";

const arrivalPollMs = 20;

/**
 * Opens what is not open yet of the ways in of disks and memory.
 * @param baseline since when its disks are kept; empty: they are new
 * @throws Fault `conflict` MOVE_LOST when the QEMU has ended, before its end was noticed: what had arrived went with it
 */
export async function openWays(
  machine: RunningMachine,
  directory: string,
  move: Move,
  signal: AbortSignal,
  baseline = "",
): Promise<void> {
  try {
    await openDisks(machine, directory, baseline, signal);
    await openMemory(machine, directory, move, signal);
  } catch (thrown) {
    throw isGone(thrown) ? moveLost() : thrown;
  }
}

/** How the machine is built that takes the guest in. Throws `conflict` MOVE_BLOCKED when this host cannot build it. */
export function shapeFor(plan: MachinePlan, move: Move, host: GuestModel): GuestShape {
  const model = {
    machineType: move.machineType === "" ? (host.machineTypes[0] ?? "") : move.machineType,
    cpuModel: move.cpuModel === "" ? host.cpuModel : move.cpuModel,
  };
  const cold = move.type === MoveType.COLD;
  const shape = cold ? deriveColdShape(model) : (parseShape(move.guestShape) ?? deriveShape(plan, model));
  const { machineType, cpuModel } = shape;
  if (!host.machineTypes.includes(machineType)) throw blocked("machine_type", machineType);
  if (cpuModel !== host.cpuModel) throw blocked("cpu_model", cpuModel);
  return shape;
}

function blocked(blocker: string, wanted: string): Fault {
  return new Fault("conflict", `this host cannot run the guest as it is: ${blocker}`, {
    reason: "MOVE_BLOCKED",
    detail: { blocker, wanted },
  });
}

export function isGone(thrown: unknown): boolean {
  return isFault(thrown) && thrown.reason === "QMP_DISCONNECTED";
}

/** A QEMU that ends while it is asked has nothing to show; why it ended others know better. */
export async function unlessGone(answer: Promise<boolean>): Promise<boolean> {
  return await answer.catch((thrown: unknown) => {
    if (isGone(thrown)) return false;
    throw thrown;
  });
}

async function openMemory(
  machine: RunningMachine,
  directory: string,
  move: Move,
  signal: AbortSignal,
): Promise<void> {
  const { status, "socket-address": listening } = await machine.execute("query-migrate", {}, signal);
  if (status !== undefined || listening !== undefined) return;
  await machine.execute("migrate-set-capabilities", { capabilities: capabilityList(move) }, signal);
  await withShortPath(directory, memorySocketName, (path) =>
    machine.execute("migrate-incoming", { uri: `unix:${path}` }, signal),
  );
}

async function openDisks(
  machine: RunningMachine,
  directory: string,
  baseline: string,
  signal: AbortSignal,
): Promise<void> {
  if (await hasArrived(machine, signal)) return;
  const exports = await machine.execute("query-block-exports", {}, signal);
  const missing = movedDisks.filter(({ name }) => !exports.some(({ id }) => id === name));
  if (missing.length === 0) return;
  if (exports.length === 0) {
    // One that was started just before an agent died has no exports, and refuses to be started twice.
    await stopServer(machine, signal);
    // What counts from elsewhere would say wrong things of a disk that is written to from here on.
    await dropAllBitmaps(machine, signal);
    await withShortPath(directory, diskSocketName, (path) =>
      machine.execute("nbd-server-start", { addr: { type: "unix", data: { path } } }, signal),
    );
  }
  for (const disk of missing) {
    const { name: id, node } = disk;
    const name = exportOf(disk, baseline);
    const way = { type: "nbd", id, name, "node-name": node, writable: true } as const;
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

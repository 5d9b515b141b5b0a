/**
 * How the memory's stream begins. Before QEMU says anything it goes through all of the guest's memory, so as to notice what
 * is written from then on: half a second for an emulated gigabyte. It does so ahead, with nobody to listen yet, while the
 * other host is made ready and the disks are copied.
 */
import type { Move } from "#gen/skerry/agent/v1/migration_pb.js";
import { deadline } from "#kernel/retry.ts";
import type { HeldSocket } from "../../driver.ts";
import { allocatedBytes } from "../../hypervisor/disk.ts";
import { machineFiles } from "../../hypervisor/files.ts";
import type { MoveRecord } from "../record.ts";
import type { RunningMachine } from "../running-machine.ts";
import { cancelStream } from "./call-off.ts";
import { memoryChannel } from "./channels.ts";
import { deriveLimits, nextDowntimeMs, setCapabilities, setLimits } from "./limits.ts";

export const beginTimeoutMs = 20_000;
/** To notice what is written slows a guest down, so it is not to last for long before the memory's turn comes. */
const littleDiskBytes = 64n * 1024n * 1024n;

/** Makes QEMU ready for a stream, whatever is left of another. */
export async function readyStream(machine: RunningMachine, move: Move, signal: AbortSignal): Promise<void> {
  await cancelStream(machine, signal);
  await setCapabilities(machine, move, signal);
  const limits = deriveLimits({ held: false, mayEnd: false, downtimeMs: nextDowntimeMs(move, 0) });
  await setLimits(machine, limits, signal);
}

export async function startStream(machine: RunningMachine, path: string, signal: AbortSignal): Promise<void> {
  await machine.execute("migrate", { uri: `unix:${path}` }, signal);
}

/** Lets a stream that was begun ahead go on its way. False when it has come to nothing, and another is to begin. */
export async function goOn(machine: RunningMachine, held: HeldSocket, signal: AbortSignal): Promise<boolean> {
  const { status = "none" } = await machine.execute("query-migrate", {}, signal);
  // What a stream that has ended has said is still there, and would be taken for the next one's beginning.
  if (["setup", "active"].includes(status) && held.release()) return true;
  held.close();
  return false;
}

export interface AheadOptions {
  readonly machine: RunningMachine;
  readonly move: Move;
  /** What is known of an earlier try. */
  readonly record: MoveRecord | undefined;
  /** The machine's. */
  readonly directory: string;
  readonly hold: (channel: string) => HeldSocket;
  readonly remember: (what: { readonly ahead: true }) => Promise<void>;
}

/**
 * Begins a stream that waits until its socket is released. It is tried once: where the other host did not come in time the
 * stream is ended, for that may take long.
 */
export async function beginAhead(
  options: AheadOptions,
  signal: AbortSignal,
): Promise<HeldSocket | undefined> {
  const { machine, move, record, directory, hold, remember } = options;
  if (record?.begun) return undefined;
  if (record?.ahead) {
    await cancelStream(machine, signal);
    hold(memoryChannel).close();
    return undefined;
  }
  if ((await allocatedBytes(machineFiles(directory).rootDisk)) > littleDiskBytes) return undefined;
  await remember({ ahead: true });
  const held = hold(memoryChannel);
  // Not to be aborted half-way: nobody would know what has become of it.
  using limit = deadline(beginTimeoutMs, "beginning to send the memory");
  await readyStream(machine, move, limit);
  await startStream(machine, held.path, limit);
  return held;
}

/**
 * The destination of a post-copy: its guest runs while the source still has some of its memory, and a connection that was
 * lost is made again. QEMU must not be told any of it before the commit: it runs the guest as soon as its state is here.
 */
import { existsSync, readFileSync } from "node:fs";
import { Fault, isFault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import type { RunningMachine } from "../running-machine.ts";
import { memorySocketName, withShortPath } from "./channels.ts";
import { stopServer } from "./receive.ts";

const unprivileged = "/proc/sys/vm/unprivileged_userfaultfd";
/** For QEMU to see by itself that its connection is gone; then it is told so. */
const looksBeforePause = 20;
const pauseLimitMs = 10_000;
const pollMs = 50;

type Monitor = Pick<RunningMachine, "execute" | "eventCount" | "eventAfter">;

/** The kernel lets a process of ours wait for pages that are elsewhere. */
export function canWaitForPages(): boolean {
  if (!existsSync(unprivileged)) return false;
  return process.geteuid?.() === 0 || readFileSync(unprivileged, "utf8").trim() === "1";
}

/** Lets the guest run: at once when its state is here, else the moment that it is. */
export async function runWithoutMemory(machine: RunningMachine, signal: AbortSignal): Promise<void> {
  const { running } = await machine.execute("query-status", {}, signal);
  if (running) return;
  await stopServer(machine, signal);
  await machine.execute("cont", {}, signal);
}

/** Makes QEMU listen again for a connection that was lost. What is there of the guest goes on meanwhile. */
export async function awaitMemoryAgain(
  machine: Monitor,
  directory: string,
  parent: AbortSignal,
): Promise<void> {
  using signal = deadline(pauseLimitMs, "the guest's memory to wait for a new connection", parent);
  for (let look = 0; ; look++) {
    const seen = machine.eventCount;
    const { status = "none" } = await machine.execute("query-migrate", {}, signal);
    if (status === "postcopy-paused") break;
    // Without its state there is no guest yet that could go on.
    if (!status.startsWith("postcopy")) throw cannotRecover(status);
    if (look === looksBeforePause) await pause(machine, signal);
    await machine.eventAfter(seen, pollMs, signal);
  }
  await withShortPath(directory, memorySocketName, (path) =>
    machine.execute("migrate-recover", { uri: `unix:${path}` }, signal),
  );
}

/**
 * It is refused when QEMU has just seen it by itself, and before 8.2 also while it recovers. That must not end the
 * attempt: the source's QEMU has no way back from a recovery that is broken off.
 */
async function pause(machine: Monitor, signal: AbortSignal): Promise<void> {
  try {
    await machine.execute("migrate-pause", {}, signal);
  } catch (thrown) {
    if (!isFault(thrown) || thrown.reason !== "QMP_COMMAND_FAILED") throw thrown;
  }
}

function cannotRecover(status: string): Fault {
  return new Fault("conflict", "the guest's memory was cut off before its state had arrived", {
    reason: "MOVE_LOST",
    cause: new Error(status),
  });
}

/** Ends a running machine in three ever ruder ways: ask the guest, have QEMU quit (which saves its disk), kill QEMU. */
import { isFault } from "#kernel/fault.ts";
import { sleep } from "#kernel/retry.ts";
import { killProcess, type ProcessIdentity } from "./process.ts";
import type { RunningMachine } from "./running-machine.ts";

/** A guest that is still booting does not hear the power button, so it is pressed again. */
const pressAgainMs = 3_000;
const quitTimeoutMs = 5_000;
/** When the plug is pulled: less than the time in which a host stops what may be started elsewhere. */
const pulledTimeoutMs = 1_000;

/** Returns when the machine is gone. @param patienceMs how long the guest may take; 0 does not ask it */
export async function stopMachine(
  machine: RunningMachine,
  identity: ProcessIdentity,
  patienceMs: number,
  signal: AbortSignal,
): Promise<void> {
  const until = performance.now() + patienceMs;
  for (let left = patienceMs; left > 0; left = until - performance.now()) {
    await unlessDeaf(machine.execute("system_powerdown", {}, signal, quitTimeoutMs));
    if (await endsWithin(machine, Math.min(left, pressAgainMs), signal)) return;
  }
  const limitMs = patienceMs > 0 ? quitTimeoutMs : pulledTimeoutMs;
  await unlessDeaf(machine.execute("quit", {}, signal, limitMs));
  if (await endsWithin(machine, limitMs, signal)) return;
  await killProcess(identity);
  await machine.ended;
}

async function endsWithin(machine: RunningMachine, ms: number, signal: AbortSignal): Promise<boolean> {
  const enough = new AbortController();
  const ended = machine.ended.then(() => true);
  try {
    return await Promise.race([ended, sleep(ms, AbortSignal.any([signal, enough.signal])).then(() => false)]);
  } finally {
    enough.abort();
  }
}

/** A monitor that is gone or does not answer is no obstacle: the next way is ruder. */
async function unlessDeaf(command: Promise<unknown>): Promise<void> {
  try {
    await command;
  } catch (thrown) {
    if (!isFault(thrown) || !["QMP_DISCONNECTED", "QMP_TIMEOUT"].includes(thrown.reason)) throw thrown;
  }
}

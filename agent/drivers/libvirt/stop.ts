/** Ends a running domain in three ever ruder ways: ask the guest, have QEMU end (which saves its disk), kill QEMU. */
import { sleep } from "#kernel/retry.ts";
import type { Virsh } from "./virsh.ts";

/** A guest that is still booting does not hear the power button, so it is pressed again. */
const pressAgainMs = 3_000;
const pollMs = 50;

export interface Stoppable {
  readonly uuid: string;
  readonly virsh: Virsh;
  isOn(): Promise<boolean>;
}

/** Marks the domain, for as long as it runs, as asked to stop: the guest may obey long after we are gone. */
export async function askToStop({ uuid, virsh }: Stoppable, signal: AbortSignal): Promise<void> {
  const mark = ["--uri", "https://skerry.dev/ns/stop", "--key", "skerry-stop", "--set", "<stop/>"];
  await virsh.run(["metadata", uuid, "--live", ...mark], { signal });
}

/** Returns when the domain is off. @param patienceMs how long the guest may take; 0 does not ask it */
export async function stopDomain(domain: Stoppable, patienceMs: number, signal: AbortSignal): Promise<void> {
  const { uuid, virsh } = domain;
  const until = performance.now() + patienceMs;
  for (let left = patienceMs; left > 0; left = until - performance.now()) {
    await unlessOff(domain, virsh.run(["shutdown", uuid, "--mode", "acpi"], { signal }));
    if (await isOffWithin(domain, Math.min(left, pressAgainMs), signal)) return;
  }
  try {
    await virsh.run(["destroy", uuid, "--graceful"], { signal });
  } catch {
    // It has ended meanwhile, or it does not end in order; the next way tells the two apart.
    await destroyDomain(domain, signal);
  }
}

/** Ends the domain at once, and is content when there is nothing to end. */
export async function destroyDomain(domain: Stoppable, signal: AbortSignal): Promise<void> {
  await unlessOff(domain, domain.virsh.run(["destroy", domain.uuid], { signal }));
}

/** A command that came too late is no failure. */
async function unlessOff(domain: Stoppable, command: Promise<unknown>): Promise<void> {
  try {
    await command;
  } catch (thrown) {
    if (await domain.isOn()) throw thrown;
  }
}

async function isOffWithin(domain: Stoppable, ms: number, signal: AbortSignal): Promise<boolean> {
  const until = performance.now() + ms;
  while (await domain.isOn()) {
    if (performance.now() >= until) return false;
    await sleep(pollMs, signal);
  }
  return true;
}

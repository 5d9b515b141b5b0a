/** What libvirt tells about its domains without being asked. Hints only: whoever hears one looks at the domain itself. */
import { toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import type { Virsh } from "./virsh.ts";

export interface LifecycleEvent {
  readonly name: string;
  /** As libvirt's tool puts it: Started, Suspended, Resumed, Stopped, Crashed, ... */
  readonly event: string;
  readonly detail: string;
}

/** Reads one line of `virsh event`; undefined for any that tells no change of life. Pure. */
export function parseEvent(line: string): LifecycleEvent | undefined {
  const [, name, event, detail] = /^event 'lifecycle' for domain '(.*)': (\S+) ?(.*)$/.exec(line) ?? [];
  return name === undefined || event === undefined ? undefined : { name, event, detail: detail ?? "" };
}

/** Follows the events until the signal aborts, across restarts of the daemon; `missed` is called after each gap. */
export async function followEvents(
  { virsh, log }: { readonly virsh: Virsh; readonly log: Logger },
  on: { event(event: LifecycleEvent): void; missed(): void },
  signal: AbortSignal,
): Promise<void> {
  for (let attempt = 0; !signal.aborted; attempt++) {
    try {
      for await (const line of virsh.follow(["event", "--event", "lifecycle", "--loop"], signal)) {
        const event = parseEvent(line);
        if (event) on.event(event);
        attempt = 0;
      }
    } catch (thrown) {
      if (signal.aborted) return;
      log.warn("libvirt.events_lost", { attempt, fault: toFault(thrown) });
    }
    await sleep(backoffMs(attempt, { baseMs: 200, capMs: 10_000 }), signal).catch(() => undefined); // aborted: the loop ends
    on.missed();
  }
}

/** What one move of a guest came to, whoever carried it. */

export const pathNames = ["tcp", "multifd-zstd", "skerry"] as const;
export type PathName = (typeof pathNames)[number];

export interface Outcome {
  /** From the wish, with nothing prepared at the destination, until the guest runs there. */
  readonly seconds: number;
  /** On the link, both ways. */
  readonly bytes: number;
  /** From the stop at the source to the run at the destination, by QEMU's own events, seen from outside. */
  readonly downtimeMs: number;
  /** What the mover itself says of its downtime. */
  readonly claimedDowntimeMs: number;
  /** CPU time of what moved it, the hypervisors excepted. */
  readonly cpuSeconds: number;
  /** Largest resident memory of any agent meanwhile. */
  readonly agentMib: number;
  /** Disk on the wire when it moved back, for each byte of the way there; when it did. */
  readonly diskBackVsFirst?: number;
}

const mb = (bytes: number) => (bytes / 1e6).toFixed(1);

export function describeOutcome(name: PathName, outcome: Outcome): string {
  const { seconds, bytes, downtimeMs, claimedDowntimeMs, cpuSeconds, agentMib } = outcome;
  const down = `downtime ${downtimeMs.toFixed(0)} ms (it says ${claimedDowntimeMs.toFixed(0)})`;
  const own = agentMib > 0 ? `, ${cpuSeconds.toFixed(2)} s of CPU, agents ${agentMib.toFixed(0)} MiB` : "";
  return `${name}: ${seconds.toFixed(2)} s, ${mb(bytes)} MB, ${down}${own}`;
}

/** How a move goes, from libvirt's statistics of its job. Pure. */
import type { SendProgress } from "../driver.ts";
import { statOf } from "./metrics.ts";

export interface JobView {
  readonly phase: SendProgress["phase"];
  /** As `virsh domjobinfo --rawstats` prints them; empty before the job tells anything. */
  readonly stats: ReadonlyMap<string, string>;
  /** QEMU is told to keep to it. */
  readonly maxDowntimeMs: number;
  readonly stoppedAtMs: number | undefined;
}

export function deriveProgress({ phase, stats, maxDowntimeMs, stoppedAtMs }: JobView): SendProgress {
  const of = (name: string) => statOf(stats, name);
  const page = of("memory_page_size");
  const downtime = of("downtime");
  return {
    phase,
    bytesTotal: of("memory_total") + of("disk_total"),
    bytesRemaining: of("memory_remaining") + of("disk_remaining"),
    zeroBytes: of("memory_constant") * page,
    dirtyRate: of("memory_dirty_rate") * page,
    throughput: of("memory_bps") + of("disk_bps"),
    rounds: of("memory_iteration"),
    predictedDowntimeMs: maxDowntimeMs,
    ...(stoppedAtMs === undefined ? {} : { stoppedAtMs }),
    ...(phase === "handed-over" ? { stoppedMs: downtime } : {}),
  };
}

/** How often QEMU goes over the memory before it counts as a guest that writes faster than the link carries. */
const roundLimit = 30;

/** True when another round would hardly bring the end nearer. */
export function isStalled(stats: ReadonlyMap<string, string>): boolean {
  return statOf(stats, "memory_iteration") > roundLimit && statOf(stats, "memory_remaining") > 0;
}

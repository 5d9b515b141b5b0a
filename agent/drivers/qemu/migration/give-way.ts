/** What is done when rounds get nowhere: the guest writes faster than the link carries. Pure. */
import { type Move, MoveType, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault } from "#kernel/fault.ts";
import { downtimeBudgetMs } from "./limits.ts";

export interface Struggle {
  /** What QEMU was told that the guest may stand still for. */
  readonly downtimeMs: number;
  /** Share of the guest's CPU time that is taken away by now. */
  readonly throttlePercent: number;
}

/** QEMU takes no more than this away. */
const mostThrottlePercent = 99;

export type Way =
  /** The guest may stand still for longer: there is room below what was allowed. */
  | "ask-more"
  /** It is being slowed down, in steps. */
  | "wait"
  | "post-copy"
  /** It stops for as long as it takes. */
  | "force";

/** Throws `conflict` MAX_DOWNTIME_UNREACHABLE when nothing more was allowed. */
export function chooseWay(move: Move, { downtimeMs, throttlePercent }: Struggle): Way {
  if (move.switchOver && downtimeMs < downtimeBudgetMs(move)) return "ask-more";
  if (move.onUnreachable === OnUnreachable.THROTTLE && throttlePercent < mostThrottlePercent) return "wait";
  if (move.type === MoveType.POSTCOPY) return "post-copy";
  if (move.onUnreachable === OnUnreachable.FORCE) return "force";
  throw new Fault("conflict", "the guest writes faster than the link carries", {
    reason: "MAX_DOWNTIME_UNREACHABLE",
    detail: { max_downtime_ms: move.maxDowntimeMs, throttle_percent: throttlePercent },
  });
}

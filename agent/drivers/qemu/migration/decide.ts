/**
 * What to do next at the source of a move, from what is true. Pure, so that a call that was aborted, repeated, or made by
 * another agent's process decides the same.
 *
 * | memory      | disks                  | next                                                        |
 * |-------------|------------------------|-------------------------------------------------------------|
 * | not begun   | one has no copy        | mirror it                                                   |
 * | not begun   | one stopped on errors  | resume it: the connection may be back                       |
 * | not begun   | all equal, or nearly   | stream the memory                                           |
 * | on its way  | one stopped on errors  | resume it                                                   |
 * | on its way  |                        | watch                                                       |
 * | pre-switch  | one still follows      | release it: the guest has stopped, so it ends when equal    |
 * | pre-switch  | all copied             | continue; of a post-copy only once it was committed         |
 * | paused      |                        | recover: the connection of a post-copy was lost             |
 * | completed   | guest stopped for good | finish                                                      |
 * | anything    | one is lost            | fail                                                        |
 */
import { Fault } from "#kernel/fault.ts";
import type { MovedDisk } from "./channels.ts";
import { isCopied, isNearlyEqual, isStuck, type Situation } from "./situation.ts";

export type Step =
  | { readonly do: "mirror" | "resume" | "release"; readonly disk: MovedDisk }
  | { readonly do: "stream" | "watch" | "continue" | "recover" | "finish" }
  | { readonly do: "fail"; readonly fault: Fault };

export interface Stage {
  /** Memory may have been sent already. */
  readonly begun: boolean;
  /** What is left of the memory is to follow a guest that must not run before the commit. */
  readonly uncommitted: boolean;
}

export function decideStep(now: Situation, { begun, uncommitted }: Stage): Step {
  return begun ? decideMemory(now, uncommitted) : decideDisks(now);
}

function decideDisks({ disks }: Situation): Step {
  for (const state of disks) {
    const { disk, job } = state;
    if (!job) return { do: "mirror", disk };
    if (job.status === "concluded") return fail(diskLost(job.error));
    if (isStuck(state)) return { do: "resume", disk };
  }
  return { do: disks.every(isNearlyEqual) ? "stream" : "watch" };
}

function decideMemory(now: Situation, uncommitted: boolean): Step {
  const { status = "none", "error-desc": error } = now.migration;
  if (status === "none" || status === "failed" || status === "cancelled") return fail(memoryLost(error));
  if (status === "completed") {
    // It was resumed since, by a command that this one does not know of.
    if (now.runState === "running") return fail(memoryLost("the guest was resumed"));
    return { do: now.runState === "postmigrate" ? "finish" : "watch" };
  }
  if (status === "pre-switchover") return decideSwitch(now, uncommitted);
  if (status === "postcopy-paused") return { do: "recover" };
  const lost = now.disks.find(({ job }) => !job || job.status === "concluded");
  if (lost && status === "active") return fail(diskLost(lost.job?.error));
  const stuck = status === "active" ? now.disks.find(isStuck) : undefined;
  return stuck ? { do: "resume", disk: stuck.disk } : { do: "watch" };
}

function decideSwitch({ disks }: Situation, uncommitted: boolean): Step {
  for (const state of disks) {
    const { disk, job } = state;
    if (isCopied(state)) continue;
    // The guest stands still: there is no time to wait for a connection.
    if (!job || job.status === "concluded" || isStuck(state)) return fail(diskLost(job?.error));
    return { do: job.status === "ready" ? "release" : "watch", disk };
  }
  return { do: uncommitted ? "watch" : "continue" };
}

function fail(fault: Fault): Step {
  return { do: "fail", fault };
}

function memoryLost(why: string | undefined): Fault {
  return new Fault("conflict", "the memory's way to the other host was lost", {
    reason: "MOVE_MEMORY_LOST",
    cause: new Error(why ?? "its migration ended"),
  });
}

function diskLost(why: string | undefined): Fault {
  return new Fault("conflict", "the disk could not be copied to the other host", {
    reason: "MOVE_DISK_LOST",
    cause: new Error(why ?? "its copy ended"),
  });
}

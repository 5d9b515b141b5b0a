/**
 * What to do next at the source of a move, from what is true. Pure, so that a call that was aborted, repeated, or made by
 * another agent's process decides the same.
 *
 * | memory      | disks                  | next                                                        |
 * |-------------|------------------------|-------------------------------------------------------------|
 * | not begun   | one has no copy        | mirror it                                                   |
 * | not begun   | one stopped on errors  | resume it: the connection may be back                       |
 * | not begun   | all equal (ready)      | stream the memory                                           |
 * | on its way  |                        | watch                                                       |
 * | pre-switch  | one still follows      | release it: the guest has stopped, so it ends when equal    |
 * | pre-switch  | all copied             | continue                                                    |
 * | completed   | guest stopped for good | finish                                                      |
 * | anything    | one is lost            | fail                                                        |
 */
import { Fault } from "#kernel/fault.ts";
import type { MovedDisk } from "./channels.ts";
import { isCopied, type Situation } from "./situation.ts";

export type Step =
  | { readonly do: "mirror" | "resume" | "release"; readonly disk: MovedDisk }
  | { readonly do: "stream" | "watch" | "continue" | "finish" }
  | { readonly do: "fail"; readonly fault: Fault };

/** @param begun memory may have been sent already */
export function decideStep(now: Situation, begun: boolean): Step {
  return begun ? decideMemory(now) : decideDisks(now);
}

function decideDisks({ disks }: Situation): Step {
  for (const { disk, job } of disks) {
    if (!job) return { do: "mirror", disk };
    if (job.status === "concluded") return fail(diskLost(job.error));
    if (job["io-status"] !== "ok") return { do: "resume", disk };
  }
  return { do: disks.every(({ job }) => job?.ready) ? "stream" : "watch" };
}

function decideMemory(now: Situation): Step {
  const { status = "none", "error-desc": error } = now.migration;
  if (status === "none" || status === "failed" || status === "cancelled") return fail(memoryLost(error));
  // Completed and running: it was resumed since, by a command that this one does not know of.
  if (status === "completed") {
    return now.runState === "postmigrate" ? { do: "finish" } : fail(memoryLost("the guest was resumed"));
  }
  if (status === "pre-switchover") return decideSwitch(now);
  const lost = now.disks.find(({ job }) => !job || job.status === "concluded");
  return lost && status === "active" ? fail(diskLost(lost.job?.error)) : { do: "watch" };
}

function decideSwitch({ disks }: Situation): Step {
  for (const state of disks) {
    const { disk, job } = state;
    if (isCopied(state)) continue;
    if (!job || job.status === "concluded") return fail(diskLost(job?.error));
    return { do: job.status === "ready" ? "release" : "watch", disk };
  }
  return { do: "continue" };
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

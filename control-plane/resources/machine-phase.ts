/** The phase of whatever a host runs for its owner, from what is wanted and what its host says. Pure. */
import type { PhaseInput } from "./definition.ts";

export type MachinePhase =
  "pending" | "building" | "running" | "stopping" | "stopped" | "deleting" | "failed";

interface Desired {
  readonly power: "on" | "off";
}

interface Observed {
  readonly state: "preparing" | "starting" | "running" | "paused" | "stopping" | "stopped" | "failed";
}

/** @param during what it is shown as while something else is done to it */
export function machinePhase<During extends string = never>(
  r: PhaseInput<Desired, Observed>,
  during?: During,
): MachinePhase | During {
  if (r.deletingAt) return "deleting";
  const stuck = r.problem !== undefined && r.problem.stuck && r.problem.generation >= r.generation;
  // A machine that runs goes on running, whatever could not be done to it: the problem is shown beside.
  if (stuck && (!r.observed || r.observed.state === "failed")) return "failed";
  if (!r.observed) return r.hostId ? "building" : "pending";
  if (during !== undefined) return during;
  const on = r.desired.power === "on";
  const reached = r.observedGeneration >= r.generation;
  switch (r.observed.state) {
    case "preparing":
    case "starting":
      return on ? "building" : "stopping";
    case "running":
    case "paused":
      return on ? "running" : "stopping";
    case "stopping":
      return on && !reached ? "building" : "stopping";
    case "stopped":
      return on && !reached ? "building" : "stopped";
    case "failed":
      return reached ? "failed" : "building";
  }
}

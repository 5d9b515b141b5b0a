/** Why a machine on the move cannot be dealt with as asked. */
import type { Move, MoveRole } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault } from "#kernel/fault.ts";
import type { MachinePlan } from "../../driver.ts";

export function moveLost(): Fault {
  return new Fault("conflict", "what had begun to arrive is lost", { reason: "MOVE_LOST" });
}

/** The plan's move, which its caller has seen to it that it has. */
export function moveOf(plan: MachinePlan, role: MoveRole): Move {
  const { move } = plan.spec;
  if (move?.role === role) return move;
  throw new Fault("internal", "the plan has no such move", { reason: "MOVE_MISSING" });
}

export function moveCommitted(): Fault {
  return new Fault("conflict", "the guest has gone on at the other host", { reason: "MOVE_COMMITTED" });
}

export function moveIncomplete(): Fault {
  return new Fault("conflict", "the machine has not arrived whole", { reason: "MOVE_INCOMPLETE" });
}

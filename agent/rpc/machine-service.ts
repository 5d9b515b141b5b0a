import type { ServiceImpl } from "@connectrpc/connect";
import type { MachineService } from "#gen/skerry/agent/v1/machine_pb.js";
import type { ChangeFeed } from "../machines/change-feed.ts";
import type { MachineManager } from "../machines/manager.ts";
import { requireControlPlane, requireOperator } from "./caller.ts";
import { checkFence, checkId, checkSpec } from "./machine-checks.ts";

export interface MachineServiceDeps {
  readonly manager: MachineManager;
  readonly changes: ChangeFeed;
}

/** Commands from the control plane, reads for operators as well. */
export function machineService({ manager, changes }: MachineServiceDeps): ServiceImpl<typeof MachineService> {
  return {
    async ensureMachine({ id, fence, spec, waitMs }, context) {
      requireControlPlane(context);
      const command = { id: checkId(id), fence: checkFence(fence), spec: checkSpec(spec), waitMs };
      return { machine: await manager.ensure(command, context.signal) };
    },

    async removeMachine({ id, fence, waitMs, keepDisksSeconds, adoptionEnd }, context) {
      requireControlPlane(context);
      const command = { id: checkId(id), fence: checkFence(fence), waitMs, keepDisksSeconds, adoptionEnd };
      return { removed: await manager.remove(command, context.signal) };
    },

    getMachine({ id }, context) {
      requireOperator(context);
      return { machine: manager.get(id) };
    },

    listMachines(_request, context) {
      requireOperator(context);
      return { machines: [...manager.list()] };
    },

    async *watchMachines(_request, context) {
      requireOperator(context);
      // Watched before listed: a change between the two comes twice, none is missed.
      const stream = changes.watch(context.signal);
      for (const machine of manager.list()) yield { event: { case: "changed" as const, value: machine } };
      for await (const change of stream) {
        if ("changed" in change) yield { event: { case: "changed" as const, value: change.changed } };
        else yield { event: { case: "removedId" as const, value: change.removed.id } };
      }
    },
  };
}

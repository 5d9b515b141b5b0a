import { MachineState, type Machine } from "#gen/skerry/agent/v1/machine_pb.js";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { MachineObservation } from "./controller.ts";
import { toMoveObservation } from "./move.ts";

const states: Record<MachineState, string> = {
  [MachineState.UNSPECIFIED]: "preparing",
  [MachineState.PREPARING]: "preparing",
  [MachineState.STARTING]: "starting",
  [MachineState.RUNNING]: "running",
  [MachineState.PAUSED]: "paused",
  [MachineState.STOPPING]: "stopping",
  [MachineState.STOPPED]: "stopped",
  [MachineState.FAILED]: "failed",
};

export function machineStateOf(state: MachineState): string {
  return states[state];
}

/** An agent's message about a machine in the form in which it is stored. */
export function toObservation(machine: Machine): MachineObservation {
  const state = machineStateOf(machine.state);
  return {
    id: machine.id,
    seq: Number(machine.seq),
    epoch: Number(machine.fence?.epoch ?? 0n),
    accepted_generation: Number(machine.fence?.generation ?? 0n),
    generation: Number(machine.generationReached),
    state,
    observed: {
      state,
      reason: machine.reason,
      message: machine.message,
      cpus: machine.vcpus,
      memory_bytes: Number(machine.memoryBytes),
      disk_bytes: Number(machine.diskBytes),
      pending_restart: machine.pendingRestart,
      guest_address: machine.guestAddress,
      forwards: machine.forwards.map((forward) => ({
        protocol: forward.protocol,
        guest_port: forward.guestPort,
        host_port: forward.hostPort,
        host_address: forward.hostAddress,
      })),
      started_at: machine.startedAt ? timestampDate(machine.startedAt).toISOString() : null,
      restarts: Number(machine.restarts),
      crashes: Number(machine.crashes),
      driver: machine.driver,
      acceleration: machine.acceleration,
      image_bytes_done: Number(machine.imageBytesDone),
      image_bytes_total: Number(machine.imageBytesTotal),
      ...(machine.guestShape && { guest_shape: machine.guestShape }),
      ...(machine.machineType && {
        guest_model: { machine_type: machine.machineType, cpu_model: machine.cpuModel },
      }),
      ...(machine.leaseTerms > 0n && { lease_terms: Number(machine.leaseTerms) }),
      ...(machine.moveBlocker && { move_blocker: machine.moveBlocker }),
      ...(machine.diskBaseline && { disk_baseline: machine.diskBaseline }),
      ...(machine.container && {
        container: {
          health: machine.container.health,
          exit_code: machine.container.exited ? machine.container.exitCode : null,
          ...(machine.container.gpus.length > 0 && { gpus: machine.container.gpus }),
          ...(machine.container.missingGpus.length > 0 && { missing_gpus: machine.container.missingGpus }),
        },
      }),
      ...(machine.move && { move: toMoveObservation(machine.move) }),
    },
  };
}

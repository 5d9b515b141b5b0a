/** A machine as the agent tells of it: from the ledger, the driver and what is being done. Pure. */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  FenceSchema,
  type Machine,
  MachineSchema,
  MachineState,
  PortForwardSchema,
} from "#gen/skerry/agent/v1/machine_pb.js";
import { ContainerStatusSchema } from "#gen/skerry/agent/v1/workload_pb.js";
import type { MoveStatus } from "#gen/skerry/agent/v1/migration_pb.js";
import type { DriverMachine, DriverState } from "../drivers/driver.ts";
import type { LedgerEntry } from "./entry.ts";

/** What the agent is about, where that says more than the driver's state. */
export interface Activity {
  readonly state: MachineState;
  readonly reason: string;
  readonly message: string;
}

export interface ViewInput {
  readonly entry: LedgerEntry;
  readonly observed: DriverMachine | undefined;
  readonly activity: Activity | undefined;
  readonly move: MoveStatus | undefined;
  readonly driver: string;
  readonly image: { readonly done: bigint; readonly total: bigint };
}

export const stateOf: Record<DriverState, MachineState> = {
  starting: MachineState.STARTING,
  running: MachineState.RUNNING,
  paused: MachineState.PAUSED,
  stopping: MachineState.STOPPING,
  stopped: MachineState.STOPPED,
};

/** Everything but `seq` and `observed_at`, which belong to the telling. */
export function toMachine({ entry, observed, activity, move, driver, image }: ViewInput): Machine {
  const { intent, progress } = entry;
  const size = observed ?? intent.spec;
  const unmade = intent.spec ? MachineState.PREPARING : MachineState.STOPPING;
  return create(MachineSchema, {
    id: entry.id,
    fence: create(FenceSchema, intent.fence),
    generationReached: progress.generationReached,
    state: activity?.state ?? (observed ? stateOf[observed.state] : unmade),
    reason: activity?.reason ?? observed?.stuck?.reason ?? "",
    message: activity?.message ?? observed?.stuck?.message ?? "",
    vcpus: size?.vcpus ?? 0,
    memoryBytes: size?.memoryBytes ?? 0n,
    diskBytes: size?.diskBytes ?? 0n,
    pendingRestart: [...(observed?.pendingRestart ?? [])],
    guestAddress: observed?.guestAddress ?? "",
    forwards: (observed?.forwards ?? []).map((forward) => create(PortForwardSchema, forward)),
    ...(observed?.startedAt && { startedAt: timestampFromDate(observed.startedAt) }),
    restarts: progress.restarts,
    crashes: progress.crashes,
    driver: observed?.driver ?? driver,
    acceleration: observed?.acceleration ?? "",
    guestShape: observed?.guestShape ?? "",
    machineType: observed?.model?.machineType ?? "",
    cpuModel: observed?.model?.cpuModel ?? "",
    moveBlocker: observed?.moveBlocker ?? "",
    diskBaseline: observed?.baseline ?? "",
    imageBytesDone: image.done,
    imageBytesTotal: image.total,
    leaseTerms: intent.spec?.leaseTerms ?? 0n,
    ...(move && { move }),
    ...(observed?.container && { container: create(ContainerStatusSchema, observed.container) }),
  });
}

/** The machine that stands for a record that cannot be read: present, so that nobody takes it for gone. */
export function damagedMachine(id: string, driver: string): Machine {
  return create(MachineSchema, {
    id,
    state: MachineState.FAILED,
    reason: "LEDGER_DAMAGED",
    message: "the host's record of the machine is damaged; it is left alone until a person has looked",
    driver,
  });
}

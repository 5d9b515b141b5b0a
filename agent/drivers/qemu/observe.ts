/** A machine as the driver finds it: from QEMU while it runs, else from its folder and its plan. */
import { isFault } from "#kernel/fault.ts";
import type { DriverMachine, DriverState, MachinePlan } from "../driver.ts";
import { findDiskBytes, noRoom } from "../hypervisor/disk.ts";
import { machineFiles } from "../hypervisor/files.ts";
import { deriveIdentity } from "../hypervisor/identity.ts";
import { hasBaseline, hasStoredBaseline } from "./migration/baseline.ts";
import { addedMemory, isMemoryLossy } from "./migration/lossy-memory.ts";
import { derivePendingRestart, readMemory } from "./hotplug.ts";
import type { MachineRecord } from "./record.ts";
import type { RunningMachine } from "./running-machine.ts";
import { encodeShape, type GuestShape, parseShape } from "./shape.ts";

export interface Observable {
  readonly plan: MachinePlan;
  readonly record: MachineRecord;
  readonly running: RunningMachine | undefined;
  /** What the driver is doing with it. */
  readonly transition: "starting" | "stopping" | undefined;
}

export async function observe(machine: Observable, signal: AbortSignal): Promise<DriverMachine> {
  // What holds the disk of a machine that is off while it moves is not the machine.
  const running = machine.record.move?.cold ? undefined : machine.running;
  const found = running && (await unlessEnded(observeRunning(machine, running, signal)));
  return found ?? (await observeStopped(machine, signal));
}

/** Undefined when the machine ended while it was asked. */
export async function unlessEnded<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (thrown) {
    if (isFault(thrown) && thrown.reason === "QMP_DISCONNECTED") return undefined;
    throw thrown;
  }
}

async function observeRunning(
  { plan, record, transition }: Observable,
  running: RunningMachine,
  signal: AbortSignal,
): Promise<DriverMachine> {
  const { id, spec, directory } = plan;
  const [{ status }, cpus, kvm, memory, diskBytes, baseline] = await Promise.all([
    running.execute("query-status", {}, signal),
    running.execute("query-cpus-fast", {}, signal),
    running.execute("query-kvm", {}, signal),
    readMemory(running, signal),
    findDiskBytes(machineFiles(directory).rootDisk),
    findBaseline(record, (id) => hasBaseline(running, id, signal)),
  ]);
  const { pluggedBytes } = memory;
  const isLossy = await isMemoryLossy(running, { pluggedBytes, emulated: !kvm.enabled }, signal);
  return {
    id,
    state: transition ?? (record.stopRequested ? "stopping" : stateOf(status)),
    vcpus: cpus.length,
    memoryBytes: memory.bootBytes + memory.pluggedBytes,
    diskBytes: diskBytes ?? 0n,
    pendingRestart: derivePendingRestart(spec, { vcpus: cpus.length, memory }),
    guestAddress: deriveIdentity(id).network.guest,
    forwards: record.forwards,
    startedAt: running.startedAt,
    acceleration: kvm.enabled ? "kvm" : "tcg",
    guestShape: shapeNow(record.shape, cpus.length),
    ...modelOf(parseShape(record.shape)),
    ...(status === "io-error" && { stuck: noRoom }),
    ...(isLossy && { moveBlocker: addedMemory }),
    ...baseline,
  };
}

async function observeStopped(
  { plan, record, transition }: Observable,
  signal: AbortSignal,
): Promise<DriverMachine> {
  const { id, spec, directory } = plan;
  const files = machineFiles(directory);
  const diskBytes = await findDiskBytes(files.rootDisk);
  const isKnown = async (migrationId: string) =>
    diskBytes !== undefined && (await hasStoredBaseline(files, migrationId, signal));
  return {
    id,
    state: transition ?? "stopped",
    vcpus: spec.vcpus,
    memoryBytes: spec.memoryBytes,
    diskBytes: diskBytes ?? 0n,
    pendingRestart: [],
    guestAddress: deriveIdentity(id).network.guest,
    forwards: [],
    startedAt: undefined,
    acceleration: "none",
    ...(await findBaseline(record, isKnown)),
  };
}

/** Of a machine that is to arrive: what its disk was before. Else what its disk says, which a crash may have cut short. */
async function findBaseline(
  { move, baseline }: MachineRecord,
  isKnown: (migrationId: string) => Promise<boolean>,
): Promise<Pick<DriverMachine, "baseline">> {
  if (move?.role === "destination") return move.baseline === undefined ? {} : { baseline: move.baseline };
  return baseline !== "" && (await isKnown(baseline)) ? { baseline } : {};
}

/** What was plugged in since the start is built in where it is built again. */
function shapeNow(text: string, vcpus: number): string {
  const shape = parseShape(text);
  return shape ? encodeShape({ ...shape, vcpus }) : "";
}

function stateOf(status: string): DriverState {
  if (status === "running") return "running";
  return status === "shutdown" || status === "guest-panicked" ? "stopping" : "paused";
}

function modelOf(shape: GuestShape | undefined): Pick<DriverMachine, "model"> {
  return shape ? { model: { machineType: shape.machineType, cpuModel: shape.cpuModel } } : {};
}

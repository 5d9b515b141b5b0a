/**
 * Machines as QEMU processes of this host, without a daemon. QEMU itself and the machine's folder hold the truth; what is
 * kept in memory here is only which machines there are and our hold on those that run.
 */
import { rm } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import {
  diskOf,
  type ConsoleAccess,
  type CopyProgress,
  type DiskCopies,
  type DriverFacts,
  type DriverMachine,
  type DriverMetrics,
  type MachineDriver,
  type MachineEvent,
  type MachinePlan,
  type RemoveOptions,
} from "../driver.ts";
import type { KernelImage } from "../hypervisor/accel.ts";
import { allocatedBytes, ensureDisk, findDiskBytes, refuseShrinking } from "../hypervisor/disk.ts";
import { connectSocket, machineFiles, type MachineFiles, serialSocketName } from "../hypervisor/files.ts";
import { ensureForwards } from "../hypervisor/forwards.ts";
import { hostFault } from "../hypervisor/host-fault.ts";
import { createHostProbe, type HostAbilities } from "../hypervisor/host.ts";
import { deriveIdentity } from "../hypervisor/identity.ts";
import { dropKeptDisks, keepDisk } from "../hypervisor/kept-disk.ts";
import { type Platform, platformOf } from "../hypervisor/platform.ts";
import { ensureSeed } from "../hypervisor/seed.ts";
import { captureRunning, captureStopped, requireRoom } from "./capture.ts";
import { growDisk, plugMemory, plugVcpus, reportMemoryUse } from "./hotplug.ts";
import { deriveShape } from "./launch.ts";
import { type Entry, Machines, processIdentity } from "./machines.ts";
import { readMetrics } from "./metrics.ts";
import { dropBrokenBitmaps } from "./migration/baseline.ts";
import { Moves } from "./migration/moves.ts";
import { observe, unlessEnded } from "./observe.ts";
import { killProcess } from "./process.ts";
import { readRecord } from "./record.ts";
import type { RunningMachine } from "./running-machine.ts";
import { stopMachine } from "./stop.ts";

export interface QemuDriverOptions {
  /** Where the driver remembers what it found out about this host. */
  readonly stateDirectory: string;
  readonly log: Logger;
  /** The guest that proves acceleration; asked for only when there is something to prove. */
  readonly probeGuest?: (signal: AbortSignal) => Promise<KernelImage | undefined>;
  /** As Node names it; default: this host's. */
  readonly architecture?: string;
}

/** Makes the driver; it does nothing until it is asked to. */
export function createQemuDriver(options: QemuDriverOptions): MachineDriver {
  return new QemuDriver(options);
}

class QemuDriver implements MachineDriver {
  readonly name = "qemu";
  readonly console: ConsoleAccess = {
    connect: (id, signal) => this.#connectConsole(id, signal),
    logPath: (directory) => machineFiles(directory).consoleLog,
  };
  readonly diskCopies: DiskCopies = { copyDisk: (...given) => this.#copyDisk(...given) };
  readonly #options: QemuDriverOptions;
  readonly #platform: Platform;
  readonly #machines: Machines;
  readonly liveMigration: Moves;
  readonly #lifetime = new AbortController();
  readonly #host: () => Promise<HostAbilities>;

  constructor(options: QemuDriverOptions) {
    this.#options = options;
    this.#platform = platformOf(options.architecture ?? process.arch);
    this.#host = createHostProbe({
      platform: this.#platform,
      stateDirectory: options.stateDirectory,
      log: options.log,
      lifetime: this.#lifetime.signal,
      probeGuest: options.probeGuest,
    });
    this.#machines = new Machines({
      platform: this.#platform,
      host: this.#host,
      log: options.log,
      lifetime: this.#lifetime.signal,
    });
    this.liveMigration = new Moves({
      platform: this.#platform,
      machines: this.#machines,
      host: this.#host,
      prepare: (entry, signal) => this.#prepare(entry, signal),
      lifetime: this.#lifetime.signal,
      log: options.log,
    });
  }

  async probe(signal: AbortSignal): Promise<DriverFacts> {
    const { version, acceleration, reason } = await this.#host();
    signal.throwIfAborted();
    const growing = this.#platform.hotplug ? ["hotplug.cpu", "hotplug.memory"] : [];
    const capabilities = ["console", "forwards", "hotplug.disk", "migration", ...growing];
    return { version, acceleration, accelerationReason: reason, capabilities };
  }

  async recover(plans: readonly MachinePlan[], signal: AbortSignal): Promise<readonly DriverMachine[]> {
    const found = await Promise.all(plans.map((plan) => this.#recoverOne(plan, signal)));
    return found.filter((machine) => machine !== undefined);
  }

  async #recoverOne(plan: MachinePlan, signal: AbortSignal): Promise<DriverMachine | undefined> {
    try {
      if ((await findDiskBytes(machineFiles(plan.directory).rootDisk)) === undefined) return undefined;
      const entry = await this.#machines.entry(plan);
      await this.#machines.attach(entry, signal);
      return await observe(entry, signal);
    } catch (thrown) {
      // One machine in trouble must not keep the others from being found; its `ensure` will say the same.
      if (signal.aborted) throw thrown;
      this.#options.log.error("machine.not_recovered", { machine: plan.id, fault: toFault(thrown) });
      return undefined;
    }
  }

  async ensure(plan: MachinePlan, signal: AbortSignal): Promise<DriverMachine> {
    signal.throwIfAborted();
    const entry = await this.#machines.entry(plan);
    await this.#machines.attach(entry, signal);
    const files = machineFiles(plan.directory);
    const present = await findDiskBytes(files.rootDisk);
    if (present !== undefined) refuseShrinking(present, plan.spec.diskBytes);
    if (!plan.spec.move) await this.liveMigration.end(entry, signal);
    else if (!(await this.liveMigration.allowsEnsure(entry))) return await observe(entry, signal);
    // A guest that was asked to shut down may do so at any moment: it must end before it can be on.
    if (entry.running && (plan.spec.power === Power.OFF || entry.record.stopRequested)) {
      await this.#stop(entry, signal);
    }
    if (!entry.running) await this.#prepare(entry, signal);
    if (plan.spec.power === Power.ON) {
      entry.running ??= await this.#start(entry, signal);
      await this.#converge(entry, entry.running, signal);
    }
    return await observe(entry, signal);
  }

  async remove(
    id: string,
    directory: string,
    _signal: AbortSignal,
    { keepDisks }: RemoveOptions = { keepDisks: false },
  ): Promise<void> {
    const entry = this.#machines.forget(id);
    await this.liveMigration.letGo(id);
    await killProcess(processIdentity(id, directory));
    await entry?.running?.ended;
    if (keepDisks && (await this.#keepDisk(machineFiles(directory)))) return;
    try {
      await rm(directory, { recursive: true, force: true });
    } catch (error) {
      throw hostFault(error, "the machine's folder cannot be deleted");
    }
  }

  /** Keeps a disk whose machine has gone on elsewhere as it was when it left: after any other end it is nothing of worth. */
  async #keepDisk(files: MachineFiles): Promise<boolean> {
    const { move } = await readRecord(files.record);
    return await keepDisk(files, move?.role === "source" && move.complete ? move.id : undefined);
  }

  async inspect(id: string): Promise<DriverMachine | undefined> {
    const entry = this.#machines.find(id);
    return entry && (await observe(entry, this.#lifetime.signal));
  }

  events(signal: AbortSignal): AsyncIterable<MachineEvent> {
    return this.#machines.events.drain(signal);
  }

  async metrics(id: string): Promise<DriverMetrics | undefined> {
    const entry = this.#machines.find(id);
    const running = entry?.running;
    if (!running) return undefined;
    const { rootDisk } = machineFiles(entry.plan.directory);
    return await unlessEnded(readMetrics(running, rootDisk, this.#lifetime.signal));
  }

  /** Lets go of all machines; they run on. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new Fault("unavailable", "the agent stops", { reason: "AGENT_STOPPING" }));
    this.#machines.events.end();
    for (const entry of this.#machines.list()) {
      await this.liveMigration.letGo(entry.plan.id);
      await entry.running?.ended;
    }
  }

  async #prepare(entry: Entry, signal: AbortSignal): Promise<void> {
    const { id, spec, image, directory } = entry.plan;
    const files = machineFiles(directory);
    await this.#machines.makeFolder(entry);
    await dropKeptDisks(directory);
    await Promise.all([
      ensureDisk({ path: files.rootDisk, image, bytes: spec.diskBytes }, signal),
      ensureSeed(files, { id, macAddress: deriveIdentity(id).macAddress }, spec, signal),
    ]);
  }

  async #start(entry: Entry, signal: AbortSignal): Promise<RunningMachine> {
    const shape = deriveShape(entry.plan, await this.#machines.modelFor(entry));
    const running = await this.#machines.start(entry, shape, "boot", signal);
    await dropBrokenBitmaps(running, signal);
    return running;
  }

  async #stop(entry: Entry, signal: AbortSignal): Promise<void> {
    const { id, directory, spec } = entry.plan;
    if (!entry.running) return;
    entry.transition = "stopping";
    try {
      await this.#machines.remember(entry, { stopRequested: true });
      this.#machines.events.push({ id, type: "changed" });
      const identity = processIdentity(id, directory);
      await stopMachine(entry.running, identity, spec.stopTimeoutSeconds * 1000, signal);
    } finally {
      entry.transition = undefined;
    }
  }

  /** Gives the running machine what the plan has more than it. */
  async #converge(entry: Entry, running: RunningMachine, signal: AbortSignal): Promise<void> {
    const { id, spec, directory } = entry.plan;
    // The guest stood still because the host's disk was full; it goes on from where it was.
    const { status } = await running.execute("query-status", {}, signal);
    if (status === "io-error") await running.execute("cont", {}, signal);
    const present = await findDiskBytes(machineFiles(directory).rootDisk);
    if (present !== undefined && present < spec.diskBytes) await growDisk(running, spec.diskBytes, signal);
    await reportMemoryUse(running, signal);
    if (this.#platform.hotplug) {
      await plugVcpus(running, spec.vcpus, signal);
      await plugMemory(running, spec.memoryBytes, signal);
    }
    const guestAddress = deriveIdentity(id).network.guest;
    const before = entry.record.forwards;
    const forwards = await ensureForwards(
      running,
      { id, guestAddress, wanted: spec.forwards, before },
      signal,
    );
    if (JSON.stringify(forwards) !== JSON.stringify(before))
      await this.#machines.remember(entry, { forwards });
  }

  async #copyDisk(
    plan: MachinePlan,
    path: string,
    progress: CopyProgress,
    signal: AbortSignal,
  ): Promise<void> {
    const entry = await this.#machines.entry(plan);
    await this.#machines.attach(entry, signal);
    const { rootDisk } = machineFiles(plan.directory);
    const bytes = await findDiskBytes(rootDisk);
    if (bytes === undefined)
      throw new Fault("notFound", "the machine has no disk", { reason: "MACHINE_LOST" });
    const base = diskOf(plan.image);
    const below = base ? await allocatedBytes(base.path) : 0n;
    await requireRoom(path, (await allocatedBytes(rootDisk)) + below);
    if (entry.running) await captureRunning(entry.running, { path, bytes }, progress, signal);
    else await captureStopped(rootDisk, path, signal);
  }

  async #connectConsole(id: string, signal: AbortSignal): Promise<Duplex> {
    const entry = this.#machines.find(id);
    if (entry?.running) return await connectSocket(entry.plan.directory, serialSocketName, signal);
    throw new Fault("conflict", "the machine does not run", { reason: "MACHINE_NOT_RUNNING" });
  }
}

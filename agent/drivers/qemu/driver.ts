/**
 * Machines as QEMU processes of this host, without a daemon. QEMU itself and the machine's folder hold the truth; what is
 * kept in memory here is only which machines there are and our hold on those that run.
 */
import { mkdir, rm } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { EventQueue } from "#agent/qmp/event-queue.ts";
import { Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type {
  ConsoleAccess,
  DriverFacts,
  DriverMachine,
  DriverMetrics,
  MachineDriver,
  MachineEvent,
  MachinePlan,
} from "../driver.ts";
import type { KernelImage } from "./accel.ts";
import { deriveArgv } from "./argv.ts";
import { ensureDisk, findDiskBytes, refuseShrinking } from "./disk.ts";
import { connectSocket, machineFiles, serialSocketName } from "./files.ts";
import { ensureForwards } from "./forwards.ts";
import { createHostProbe, type HostAbilities } from "./host.ts";
import { hostFault } from "./host-fault.ts";
import { growDisk, plugMemory, plugVcpus, reportMemoryUse } from "./hotplug.ts";
import { deriveIdentity } from "./identity.ts";
import { deriveLaunch } from "./launch.ts";
import { readMetrics } from "./metrics.ts";
import { type Observable, observe, unlessEnded } from "./observe.ts";
import { type Platform, platformOf } from "./platform.ts";
import { findProcess, killProcess, launchProcess, type ProcessIdentity } from "./process.ts";
import { emptyRecord, type MachineRecord, readRecord, writeRecord } from "./record.ts";
import { RunningMachine } from "./running-machine.ts";
import { ensureSeed } from "./seed.ts";
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

/** One machine that we know of, as it is now. */
type Entry = { -readonly [K in keyof Observable]: Observable[K] };

class QemuDriver implements MachineDriver {
  readonly name = "qemu";
  readonly console: ConsoleAccess = {
    connect: (id, signal) => this.#connectConsole(id, signal),
    logPath: (directory) => machineFiles(directory).consoleLog,
  };
  readonly #options: QemuDriverOptions;
  readonly #platform: Platform;
  readonly #entries = new Map<string, Entry>();
  readonly #events = new EventQueue<MachineEvent>();
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
  }

  async probe(signal: AbortSignal): Promise<DriverFacts> {
    const { version, acceleration, reason } = await this.#host();
    signal.throwIfAborted();
    const growing = this.#platform.hotplug ? ["hotplug.cpu", "hotplug.memory"] : [];
    const capabilities = ["console", "forwards", "hotplug.disk", ...growing];
    return { version, acceleration, accelerationReason: reason, capabilities };
  }

  async recover(plans: readonly MachinePlan[], signal: AbortSignal): Promise<readonly DriverMachine[]> {
    const found = await Promise.all(plans.map((plan) => this.#recoverOne(plan, signal)));
    return found.filter((machine) => machine !== undefined);
  }

  async #recoverOne(plan: MachinePlan, signal: AbortSignal): Promise<DriverMachine | undefined> {
    try {
      if ((await findDiskBytes(machineFiles(plan.directory).rootDisk)) === undefined) return undefined;
      const entry = await this.#entry(plan);
      await this.#attach(entry, signal);
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
    const entry = await this.#entry(plan);
    await this.#attach(entry, signal);
    const files = machineFiles(plan.directory);
    const present = await findDiskBytes(files.rootDisk);
    if (present !== undefined) refuseShrinking(present, plan.spec.diskBytes);
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

  async remove(id: string, directory: string, _signal: AbortSignal): Promise<void> {
    const entry = this.#entries.get(id);
    this.#entries.delete(id);
    await killProcess(processIdentity(id, directory));
    await entry?.running?.ended;
    try {
      await rm(directory, { recursive: true, force: true });
    } catch (error) {
      throw hostFault(error, "the machine's folder cannot be deleted");
    }
  }

  async inspect(id: string): Promise<DriverMachine | undefined> {
    const entry = this.#entries.get(id);
    return entry && (await observe(entry, this.#lifetime.signal));
  }

  events(signal: AbortSignal): AsyncIterable<MachineEvent> {
    return this.#events.drain(signal);
  }

  async metrics(id: string): Promise<DriverMetrics | undefined> {
    const entry = this.#entries.get(id);
    const running = entry?.running;
    if (!running) return undefined;
    const { rootDisk } = machineFiles(entry.plan.directory);
    return await unlessEnded(readMetrics(running, rootDisk, this.#lifetime.signal));
  }

  /** Lets go of all machines; they run on. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new Fault("unavailable", "the agent stops", { reason: "AGENT_STOPPING" }));
    this.#events.end();
    for (const entry of this.#entries.values()) await entry.running?.ended;
  }

  async #entry(plan: MachinePlan): Promise<Entry> {
    const known = this.#entries.get(plan.id);
    if (known) {
      known.plan = plan;
      return known;
    }
    const record = await readRecord(machineFiles(plan.directory).record);
    const entry: Entry = { plan, record, running: undefined, transition: undefined };
    this.#entries.set(plan.id, entry);
    return entry;
  }

  async #attach(entry: Entry, signal: AbortSignal): Promise<void> {
    const { id, directory } = entry.plan;
    const identity = processIdentity(id, directory);
    if (entry.running) {
      if ((await findProcess(identity)) !== undefined) return;
      await entry.running.ended;
    }
    const attached = await RunningMachine.attach(
      {
        identity,
        log: this.#options.log.with({ machine: id }),
        lifetime: this.#lifetime.signal,
        onChange: () => this.#events.push({ id, type: "changed" }),
        onEnd: (end) => {
          entry.running = undefined;
          // A machine that was told to end did nothing that nobody asked for.
          const told = entry.record.stopRequested || !this.#entries.has(id);
          this.#events.push(told ? { id, type: "changed" } : { id, type: "ended", ...end });
        },
      },
      signal,
    );
    entry.running = attached;
  }

  async #prepare(entry: Entry, signal: AbortSignal): Promise<void> {
    const { id, spec, image, directory } = entry.plan;
    const files = machineFiles(directory);
    try {
      await mkdir(directory, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw hostFault(error, "the machine's folder cannot be made");
    }
    await Promise.all([
      ensureDisk({ path: files.rootDisk, image, bytes: spec.diskBytes }, signal),
      ensureSeed(files, { id, macAddress: deriveIdentity(id).macAddress }, spec, signal),
    ]);
  }

  async #start(entry: Entry, signal: AbortSignal): Promise<RunningMachine> {
    const { acceleration } = await this.#host();
    signal.throwIfAborted();
    entry.transition = "starting";
    try {
      await this.#remember(entry, { stopRequested: false });
      const args = deriveArgv(deriveLaunch(entry.plan), { platform: this.#platform, acceleration });
      await launchProcess(this.#platform.program, args, entry.plan.directory);
      await this.#attach(entry, signal);
    } finally {
      entry.transition = undefined;
    }
    if (entry.running) return entry.running;
    throw new Fault("unavailable", "the machine ended as soon as it had started", {
      reason: "MACHINE_ENDED_AT_START",
    });
  }

  async #stop(entry: Entry, signal: AbortSignal): Promise<void> {
    const { id, directory, spec } = entry.plan;
    if (!entry.running) return;
    entry.transition = "stopping";
    try {
      await this.#remember(entry, { stopRequested: true });
      this.#events.push({ id, type: "changed" });
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
    if (JSON.stringify(forwards) !== JSON.stringify(before)) await this.#remember(entry, { forwards });
  }

  async #remember(entry: Entry, change: Partial<MachineRecord>): Promise<void> {
    entry.record = { ...emptyRecord, ...entry.record, ...change };
    await writeRecord(machineFiles(entry.plan.directory).record, entry.record);
  }

  async #connectConsole(id: string, signal: AbortSignal): Promise<Duplex> {
    const entry = this.#entries.get(id);
    if (entry?.running) return await connectSocket(entry.plan.directory, serialSocketName, signal);
    throw new Fault("conflict", "the machine does not run", { reason: "MACHINE_NOT_RUNNING" });
  }
}

function processIdentity(id: string, directory: string): ProcessIdentity {
  return { files: machineFiles(directory), uuid: deriveIdentity(id).uuid };
}

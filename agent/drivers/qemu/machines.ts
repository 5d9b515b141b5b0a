/** The machines that the driver knows of, and its hold on those that run. What is here can be found again after a kill. */
import { mkdir } from "node:fs/promises";
import { EventQueue } from "#agent/qmp/event-queue.ts";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { MachineEvent, MachinePlan } from "../driver.ts";
import { machineFiles } from "../hypervisor/files.ts";
import { hostFault } from "../hypervisor/host-fault.ts";
import type { HostAbilities } from "../hypervisor/host.ts";
import { deriveIdentity } from "../hypervisor/identity.ts";
import { chooseMachineType } from "../hypervisor/model.ts";
import type { Platform } from "../hypervisor/platform.ts";
import { deriveArgv } from "./argv.ts";
import { deriveLaunch, type Launch } from "./launch.ts";
import type { Observable } from "./observe.ts";
import { findProcess, launchProcess, type ProcessIdentity } from "./process.ts";
import { emptyRecord, type MachineRecord, readRecord, writeRecord } from "./record.ts";
import { RunningMachine } from "./running-machine.ts";
import { encodeShape, type GuestShape, parseShape } from "./shape.ts";

/** One machine that we know of, as it is now. */
export type Entry = { -readonly [K in keyof Observable]: Observable[K] };

export interface MachinesOptions {
  readonly platform: Platform;
  readonly host: () => Promise<HostAbilities>;
  readonly log: Logger;
  /** Ends our hold on all machines. */
  readonly lifetime: AbortSignal;
}

export class Machines {
  readonly events = new EventQueue<MachineEvent>();
  readonly #options: MachinesOptions;
  readonly #entries = new Map<string, Entry>();

  constructor(options: MachinesOptions) {
    this.#options = options;
  }

  find(id: string): Entry | undefined {
    return this.#entries.get(id);
  }

  list(): Entry[] {
    return [...this.#entries.values()];
  }

  forget(id: string): Entry | undefined {
    const entry = this.#entries.get(id);
    this.#entries.delete(id);
    return entry;
  }

  /** The plan's machine, whose plan this is from here on. */
  async entry(plan: MachinePlan): Promise<Entry> {
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

  /** Takes hold of the machine's QEMU if there is one and we have none. */
  async attach(entry: Entry, signal: AbortSignal): Promise<void> {
    const { id, directory } = entry.plan;
    const identity = processIdentity(id, directory);
    const { running } = entry;
    if (running) {
      if ((await findProcess(identity)) !== undefined) return;
      await running.ended;
    }
    entry.running = await RunningMachine.attach(
      {
        identity,
        log: this.#options.log.with({ machine: id }),
        lifetime: this.#options.lifetime,
        onChange: () => this.events.push({ id, type: "changed" }),
        onEnd: (end) => {
          entry.running = undefined;
          // A machine that was told to end did nothing that nobody asked for.
          const told = entry.record.stopRequested || !this.#entries.has(id);
          this.events.push(told ? { id, type: "changed" } : { id, type: "ended", ...end });
        },
      },
      signal,
    );
  }

  /** The machine's folder is there. */
  async makeFolder(entry: Entry): Promise<void> {
    try {
      await mkdir(entry.plan.directory, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw hostFault(error, "the machine's folder cannot be made");
    }
  }

  /** What a machine is built like that starts here and now; its type is kept from its last start. */
  async modelFor(entry: Entry): Promise<Pick<GuestShape, "machineType" | "cpuModel">> {
    const { model } = await this.#options.host();
    const before = parseShape(entry.record.shape)?.machineType;
    const machineType = chooseMachineType(before, model, this.#options.platform.machine);
    return { machineType, cpuModel: model.cpuModel };
  }

  /** Starts the machine's QEMU. */
  async start(
    entry: Entry,
    shape: GuestShape,
    begins: Launch["begins"],
    signal: AbortSignal,
  ): Promise<RunningMachine> {
    const { platform, host } = this.#options;
    const { acceleration } = await host();
    signal.throwIfAborted();
    entry.transition = "starting";
    try {
      await this.remember(entry, { stopRequested: false, shape: encodeShape(shape) });
      const args = deriveArgv(deriveLaunch(entry.plan, shape, begins), { platform, acceleration });
      await launchProcess(platform.program, args, entry.plan.directory);
      await this.attach(entry, signal);
    } finally {
      entry.transition = undefined;
    }
    if (entry.running) return entry.running;
    throw new Fault("unavailable", "the machine ended as soon as it had started", {
      reason: "MACHINE_ENDED_AT_START",
    });
  }

  async remember(entry: Entry, change: Partial<MachineRecord>): Promise<void> {
    entry.record = { ...emptyRecord, ...entry.record, ...change };
    await writeRecord(machineFiles(entry.plan.directory).record, entry.record);
  }
}

/** How the machine's QEMU is told from other processes. */
export function processIdentity(id: string, directory: string): ProcessIdentity {
  return { files: machineFiles(directory), uuid: deriveIdentity(id).uuid };
}

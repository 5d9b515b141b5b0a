/**
 * Machines as domains of a libvirt that the host already runs. libvirt and the machine's folder hold the truth; what is
 * kept in memory here is only which machines there are. Domains that others made are never touched.
 */
import { rm } from "node:fs/promises";
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
  ForeignMachines,
  MachineDriver,
  MachineEvent,
  MachinePlan,
  RemoveOptions,
} from "../driver.ts";
import type { KernelImage } from "../hypervisor/accel.ts";
import { findDiskBytes, refuseShrinking } from "../hypervisor/disk.ts";
import { connectSocket, machineFiles, serialSocketName } from "../hypervisor/files.ts";
import { createHostProbe, type HostAbilities } from "../hypervisor/host.ts";
import { hostFault } from "../hypervisor/host-fault.ts";
import { platformOf } from "../hypervisor/platform.ts";
import { Adopted, type During } from "./adopted.ts";
import { rootTarget } from "./domain-xml.ts";
import { Domains } from "./domains.ts";
import { followEvents, type LifecycleEvent } from "./events.ts";
import { type LibvirtHost, openHost } from "./host.ts";
import { readMetrics } from "./metrics.ts";
import { Moves } from "./migration.ts";
import { isAskedToStop, isOn, observe } from "./observe.ts";
import { keepStaleDisk, prepareFolder } from "./prepare.ts";
import { findRuntimeFolder, type RuntimeFolder } from "./runtime.ts";

export interface LibvirtDriverOptions {
  /** The daemon, such as `qemu:///system`. */
  readonly uri: string;
  /** Where the driver remembers what it found out about this host. */
  readonly stateDirectory: string;
  readonly log: Logger;
  readonly runtime?: RuntimeFolder;
  /** Loads the binding. */
  readonly load?: () => Promise<unknown>;
  /** The guest that proves acceleration; asked for only when there is something to prove. */
  readonly probeGuest?: (signal: AbortSignal) => Promise<KernelImage | undefined>;
}

const startLimitMs = 240_000;

/** Makes the driver. Throws at once, with what is missing, when libvirt cannot be used on this host. */
export async function createLibvirtDriver(options: LibvirtDriverOptions): Promise<LibvirtDriver> {
  const host = await openHost(options, AbortSignal.timeout(startLimitMs));
  return new LibvirtDriver(host, options);
}

/** One machine that we know of. */
interface Entry {
  plan: MachinePlan;
  transition: "starting" | "stopping" | undefined;
}

export class LibvirtDriver implements MachineDriver {
  readonly name = "libvirt";
  readonly console: ConsoleAccess = {
    connect: (id, signal) => this.#connectConsole(id, signal),
    logPath: (directory) => machineFiles(directory).consoleLog,
  };
  readonly liveMigration: Moves;
  readonly foreign: ForeignMachines = { list: (signal) => this.#adopted.listForeign(signal) };
  readonly #adopted: Adopted;
  readonly #host: LibvirtHost;
  readonly #log: Logger;
  readonly #domains: Domains;
  readonly #abilities: () => Promise<HostAbilities>;
  readonly #entries = new Map<string, Entry>();
  readonly #events = new EventQueue<MachineEvent>();
  readonly #lifetime = new AbortController();
  readonly #following: Promise<void>;

  constructor(
    host: LibvirtHost,
    { runtime = findRuntimeFolder(process.env), ...options }: LibvirtDriverOptions,
  ) {
    this.#host = host;
    this.#log = options.log;
    const platform = platformOf(process.arch);
    const lifetime = this.#lifetime.signal;
    this.#abilities = createHostProbe({ platform, lifetime, probeGuest: undefined, ...options });
    this.#adopted = new Adopted(host, { log: options.log, lifetime });
    this.#domains = new Domains({ host, runtime, platform, abilities: this.#abilities });
    this.liveMigration = new Moves({
      ...{ uri: options.uri, virsh: host.virsh, domains: this.#domains, runtime, log: options.log, lifetime },
      know: (plan) => void this.#entry(plan),
      guestModel: async () => (await this.#abilities()).model,
    });
    const on = { event: (event: LifecycleEvent) => this.#note(event), missed: () => this.#lookAtAll() };
    this.#following = followEvents({ virsh: host.virsh, log: options.log }, on, lifetime);
  }

  async probe(signal: AbortSignal): Promise<DriverFacts> {
    const { acceleration, reason } = await this.#abilities();
    signal.throwIfAborted();
    const capabilities = ["console", "forwards", "hotplug.cpu", "hotplug.disk"];
    return { version: this.#host.version, acceleration, accelerationReason: reason, capabilities };
  }

  async recover(plans: readonly MachinePlan[], signal: AbortSignal): Promise<readonly DriverMachine[]> {
    const found = await Promise.all(plans.map((plan) => this.#recoverOne(plan, signal)));
    return found.filter((machine) => machine !== undefined);
  }

  async #recoverOne(plan: MachinePlan, signal: AbortSignal): Promise<DriverMachine | undefined> {
    try {
      const found = plan.spec.adoption ?? (await findDiskBytes(machineFiles(plan.directory).rootDisk));
      return found === undefined ? undefined : await this.#observe(this.#entry(plan), signal);
    } catch (thrown) {
      // One machine in trouble must not keep the others from being found; its `ensure` will say the same.
      if (signal.aborted) throw thrown;
      this.#log.error("machine.not_recovered", { machine: plan.id, fault: toFault(thrown) });
      return undefined;
    }
  }

  async ensure(plan: MachinePlan, signal: AbortSignal): Promise<DriverMachine> {
    signal.throwIfAborted();
    const entry = this.#entry(plan);
    const { spec, id } = plan;
    if (spec.adoption) return await this.#ensureAdopted(entry, signal);
    // What moves is neither started nor let run by us, and is left as it is.
    if (spec.move) return present(await this.#observe(entry, signal));
    await this.liveMigration.conclude(plan, signal);
    let found = await this.#domains.find(id, signal);
    const diskBytes = await findDiskBytes(machineFiles(plan.directory).rootDisk);
    if (diskBytes !== undefined) refuseShrinking(diskBytes, spec.diskBytes);
    // A guest that was asked to shut down may do so at any moment: it must end before it can be on.
    if (isOn(found) && (spec.power === Power.OFF || isAskedToStop(found))) {
      await this.#during(entry, "stopping", () => this.#domains.stop(plan, signal));
      found = undefined;
    }
    if (!isOn(found)) {
      await prepareFolder(plan, signal);
      if (spec.power === Power.ON) {
        await this.#during(entry, "starting", () => this.#domains.start(plan, signal));
      } else await this.#domains.define(plan, signal);
    }
    if (spec.power === Power.ON) await this.#domains.converge(plan, signal);
    return present(await this.#observe(entry, signal));
  }

  async #ensureAdopted(entry: Entry, signal: AbortSignal): Promise<DriverMachine> {
    const during: During = (transition, work) => this.#during(entry, transition, work);
    await this.#adopted.ensure(entry.plan, during, signal);
    return present(await this.#observe(entry, signal));
  }

  async remove(id: string, directory: string, signal: AbortSignal, options?: RemoveOptions): Promise<void> {
    const entry = this.#entries.get(id);
    this.#entries.delete(id);
    // An agent that was killed meanwhile knows no more than the id.
    const mayBeAdopted = entry === undefined || entry.plan.spec.adoption !== undefined;
    if (mayBeAdopted) await this.#adopted.end(id, options?.adoptionEnd ?? "release", signal);
    await this.#domains.remove(id, signal);
    this.liveMigration.forget(id);
    try {
      if (options?.keepDisks) await keepStaleDisk(directory);
      else await rm(directory, { recursive: true, force: true });
    } catch (error) {
      throw hostFault(error, "the machine's folder cannot be deleted");
    }
  }

  async inspect(id: string): Promise<DriverMachine | undefined> {
    const entry = this.#entries.get(id);
    return entry && (await this.#observe(entry, this.#lifetime.signal));
  }

  events(signal: AbortSignal): AsyncIterable<MachineEvent> {
    return this.#events.drain(signal);
  }

  async metrics(id: string): Promise<DriverMetrics | undefined> {
    const entry = this.#entries.get(id);
    const { signal } = this.#lifetime;
    if (entry?.plan.spec.adoption) return await this.#adopted.metrics(entry.plan, signal);
    const found = entry && (await this.#domains.find(id, signal));
    if (!isOn(found)) return undefined;
    const { rootDisk } = machineFiles(entry?.plan.directory ?? "");
    return await readMetrics(this.#host.virsh, { uuid: found.uuid, target: rootTarget, rootDisk }, signal);
  }

  /** Lets go of all machines; they run on. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new Fault("unavailable", "the agent stops", { reason: "AGENT_STOPPING" }));
    this.#events.end();
    await this.#following;
    await this.#adopted[Symbol.asyncDispose]();
    await this.#host.library.close();
  }

  #entry(plan: MachinePlan): Entry {
    const entry = this.#entries.get(plan.id) ?? { plan, transition: undefined };
    entry.plan = plan;
    this.#entries.set(plan.id, entry);
    return entry;
  }

  async #observe(entry: Entry, signal: AbortSignal): Promise<DriverMachine | undefined> {
    const { id, spec } = entry.plan;
    if (spec.adoption) return await this.#adopted.observe(entry.plan, entry.transition, signal);
    const found = await this.#domains.find(id, signal);
    const isAwaited = this.liveMigration.isAwaited(id);
    const lacksRoom = found?.state === "paused" && !isAwaited && (await this.#domains.lacksRoom(id, signal));
    return await observe({ ...entry, isAwaited, lacksRoom, forwards: this.#domains.forwardsOf(id) }, found);
  }

  async #during<T>(entry: Entry, transition: Entry["transition"], work: () => Promise<T>): Promise<T> {
    entry.transition = transition;
    this.#events.push({ id: entry.plan.id, type: "changed" });
    try {
      return await work();
    } finally {
      entry.transition = undefined;
    }
  }

  #note(event: LifecycleEvent): void {
    const entry = this.#entries.get(this.#adopted.idOf(event.name) ?? event.name);
    if (!entry) return;
    this.liveMigration.note(event);
    this.#judge(entry, event).catch((fault: unknown) => {
      if (!this.#lifetime.signal.aborted)
        this.#log.warn("libvirt.event_unclear", { machine: event.name, fault });
    });
  }

  /** Events come late: an end is one that nobody asked for only if the machine is off and we are not about it. */
  async #judge(entry: Entry, { event, detail }: LifecycleEvent): Promise<void> {
    const { id } = entry.plan;
    const ended = (event === "Stopped" || event === "Crashed") && !["Destroyed", "Migrated"].includes(detail);
    const asked = entry.transition !== undefined || (await this.#isOn(entry, this.#lifetime.signal));
    if (!ended || asked) this.#events.push({ id, type: "changed" });
    else
      this.#events.push({
        id,
        type: "ended",
        clean: detail === "Shutdown",
        detail: `libvirt says: ${detail}`,
      });
  }

  #lookAtAll(): void {
    for (const id of this.#entries.keys()) this.#events.push({ id, type: "changed" });
  }

  async #isOn({ plan }: Entry, signal: AbortSignal): Promise<boolean> {
    return await (plan.spec.adoption
      ? this.#adopted.isOn(plan, signal)
      : this.#domains.isOn(plan.id, signal));
  }

  async #connectConsole(id: string, signal: AbortSignal): Promise<Duplex> {
    const entry = this.#entries.get(id);
    if (entry?.plan.spec.adoption) return await this.#adopted.connectConsole(entry.plan, signal);
    if (entry && (await this.#domains.isOn(id, signal))) {
      return await connectSocket(entry.plan.directory, serialSocketName, signal);
    }
    throw new Fault("conflict", "the machine does not run", { reason: "MACHINE_NOT_RUNNING" });
  }
}

function present(machine: DriverMachine | undefined): DriverMachine {
  if (machine) return machine;
  throw new Fault("notFound", "libvirt has no such machine any more", { reason: "DOMAIN_MISSING" });
}

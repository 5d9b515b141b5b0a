/**
 * All machines of this host: commands in, changes out. Each machine has its own loop; nothing here
 * waits for one machine on behalf of another.
 */
import { dirname } from "node:path";
import { Fault } from "#kernel/fault.ts";
import { backoffMs, sleep } from "#kernel/retry.ts";
import { AdoptionEnd, type Machine, type MachineSpec } from "#gen/skerry/agent/v1/machine_pb.js";
import type { CopyProgress, DriverMachine } from "../drivers/driver.ts";
import type { Intent } from "./entry.ts";
import type { Fence } from "./fence.ts";
import { chooseToDrop, listKept, measureRoom } from "./kept-disks.ts";
import { damagedMachine } from "./machine-view.ts";
import type { MachineDeps } from "./machine-deps.ts";
import { ManagedMachine } from "./machine.ts";

const longestWaitMs = 30_000;
const pruneEveryMs = 60_000;

export interface MachineCommand {
  readonly id: string;
  readonly fence: Fence;
  /** How long to wait for the outcome before answering; more than 30,000 counts as that. */
  readonly waitMs: number;
}

export interface RemoveCommand extends MachineCommand {
  readonly keepDisksSeconds?: number;
  readonly adoptionEnd?: AdoptionEnd;
}

/** What need not be said: it is handed back as it is. */
const adoptionEnds: Readonly<Partial<Record<AdoptionEnd, Intent["adoptionEnd"]>>> = {
  [AdoptionEnd.STOP]: "stop",
  [AdoptionEnd.DELETE]: "delete",
};

export class MachineManager {
  readonly #deps: MachineDeps;
  readonly #machines = new Map<string, ManagedMachine>();

  constructor(deps: MachineDeps) {
    this.#deps = deps;
  }

  /** Accepts the spec under its fence and answers with the machine as it is once converged or waited for. */
  async ensure(
    command: MachineCommand & { readonly spec: MachineSpec },
    signal: AbortSignal,
  ): Promise<Machine> {
    const machine = this.#machine(command.id);
    using _awaited = this.#deps.changes.awaited(command.id);
    await machine.accept({ fence: command.fence, spec: command.spec });
    await machine.settled(Math.min(command.waitMs, longestWaitMs), signal);
    if (machine.view) return machine.view;
    throw new Fault("stale", "the machine was removed meanwhile", { reason: "SUPERSEDED" });
  }

  /** Accepts the removal under its fence; true when the machine is gone, false when that goes on. */
  async remove(
    { id, fence, waitMs, keepDisksSeconds = 0, ...command }: RemoveCommand,
    signal: AbortSignal,
  ): Promise<boolean> {
    const machine = this.#machine(id);
    const adoptionEnd = adoptionEnds[command.adoptionEnd ?? AdoptionEnd.UNSPECIFIED];
    const how = { ...(keepDisksSeconds > 0 && { keepDisksSeconds }), ...(adoptionEnd && { adoptionEnd }) };
    using _awaited = this.#deps.changes.awaited(id);
    await machine.accept({ fence, spec: undefined, ...how });
    await machine.settled(Math.min(waitMs, longestWaitMs), signal);
    const removed = machine.isGone;
    if (removed) this.#machines.delete(id);
    return removed;
  }

  /** Copies a machine's disk, as it is now, into a new file. */
  async copyDisk(id: string, path: string, progress: CopyProgress, signal: AbortSignal): Promise<void> {
    const machine = this.#machines.get(id);
    if (!machine) throw noSuchMachine(id);
    await machine.copyDisk(path, progress, signal);
  }

  get(id: string): Machine {
    const machine = this.#machines.get(id)?.view;
    if (machine) return machine;
    if (this.#deps.ledger.damaged.has(id)) return damagedMachine(id, this.#deps.driver.name);
    throw noSuchMachine(id);
  }

  /** Every machine of this host, those whose record is damaged included. */
  list(): readonly Machine[] {
    const views = [...this.#machines.values()].flatMap(({ view }) => view ?? []);
    const damaged = [...this.#deps.ledger.damaged].map((id) => damagedMachine(id, this.#deps.driver.name));
    return [...views, ...damaged];
  }

  /** Takes up a machine that the ledger knows, as recovery found it. */
  adopt(id: string, observed: DriverMachine | undefined): void {
    this.#machine(id).adopt(observed);
  }

  /** Follows the driver's events, deletes stale disks in time and forgets old tombstones, until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([this.#followEvents(signal), this.#prune(signal)]);
  }

  /** The host's lease has ended, or has been renewed: the machines that are bound to it follow. */
  followLease(): void {
    for (const machine of this.#machines.values()) machine.followLease();
  }

  /** What containers may be given of the host's is not what it was. */
  followDevices(): void {
    for (const machine of this.#machines.values()) machine.followDevices();
  }

  /** True when there are machines that may run only while the lease holds. */
  get hasBound(): boolean {
    return [...this.#machines.values()].some(({ isBound }) => isBound);
  }

  /** True from the first command of a move to the one that ends it: a guest may stand still until that comes. */
  get hasMoving(): boolean {
    return this.#deps.ledger.list().some(({ intent }) => intent.spec?.move !== undefined);
  }

  /** How many of those that are bound run. */
  get boundRunning(): number {
    return [...this.#machines.values()].filter((machine) => machine.runsBound).length;
  }

  /** Ends the work. With `pullPlugs`, machines stop at once; their intent stays, so the next start brings them back. */
  async close({ pullPlugs }: { readonly pullPlugs: boolean }, signal: AbortSignal): Promise<void> {
    const machines = [...this.#machines.values()];
    await Promise.all(machines.map((machine) => machine.close()));
    if (pullPlugs) await Promise.all(machines.map((machine) => this.#pullPlug(machine, signal)));
    await this.#deps.ledger.settled();
  }

  /** One machine that does not stop must not keep the others running. */
  async #pullPlug(machine: ManagedMachine, signal: AbortSignal): Promise<void> {
    try {
      await machine.pullPlug(signal);
    } catch (fault) {
      this.#deps.log.error("machine.pull-plug", { machine: machine.id, fault });
    }
  }

  #machine(id: string): ManagedMachine {
    const known = this.#machines.get(id);
    if (known) return known;
    const machine = new ManagedMachine(id, this.#deps);
    this.#machines.set(id, machine);
    return machine;
  }

  async #followEvents(signal: AbortSignal): Promise<void> {
    for (let attempt = 0; !signal.aborted; attempt++) {
      try {
        for await (const event of this.#deps.driver.events(signal)) {
          this.#machines.get(event.id)?.notice(event);
          attempt = 0;
        }
      } catch (fault) {
        this.#deps.log.error("driver.events", { attempt, fault });
      }
      if (signal.aborted) return;
      // Events that were missed meanwhile are made up for: every machine is looked at again.
      for (const id of this.#machines.keys()) this.#machines.get(id)?.notice({ id, type: "changed" });
      await sleep(backoffMs(attempt, this.#deps.timing.backoff), signal).catch(() => undefined); // aborted: the loop ends
    }
  }

  async #prune(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      for (const [id, machine] of this.#machines) if (machine.isGone) this.#machines.delete(id);
      await this.#dropKeptDisks().catch((fault: unknown) => {
        this.#deps.log.error("disks.prune", { fault }); // tried again next time
      });
      await this.#deps.ledger
        .prune()
        .catch((fault: unknown) => this.#deps.log.error("ledger.prune", { fault }));
      await sleep(pruneEveryMs, signal).catch(() => undefined); // aborted: the loop ends
    }
  }

  async #dropKeptDisks(): Promise<void> {
    const { ledger, directoryOf, now } = this.#deps;
    const kept = await listKept(ledger.list(), directoryOf);
    const [first] = kept;
    if (!first) return;
    const room = await measureRoom(dirname(directoryOf(first.id)));
    for (const id of chooseToDrop(kept, room, now())) this.#machine(id).dropKept();
  }
}

function noSuchMachine(id: string): Fault {
  return new Fault("notFound", "this host has no such machine", { detail: { id: id.slice(0, 80) } });
}

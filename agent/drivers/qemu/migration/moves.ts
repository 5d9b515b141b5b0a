/**
 * Machines on the move, between the driver's own word (its records, its QEMUs) and what is asked of it. Two rules stand
 * over all: a destination never runs while its plan has a move, and a source that may have been handed over runs again
 * only for a plan without one.
 */
import { rm } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { type Move, MoveRole, MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { GuestMemory } from "#agent/migration/guest-memory.ts";
import type {
  GuestModel,
  HeldSocket,
  LiveMigration,
  MachinePlan,
  MemoryBacklog,
  PostCopy,
  SendProgress,
} from "../../driver.ts";
import { findDiskBytes } from "../../hypervisor/disk.ts";
import { machineFiles } from "../../hypervisor/files.ts";
import { hostFault } from "../../hypervisor/host-fault.ts";
import type { HostAbilities } from "../../hypervisor/host.ts";
import { takeKeptDisk } from "../../hypervisor/kept-disk.ts";
import type { Platform } from "../../hypervisor/platform.ts";
import { growDisk } from "../hotplug.ts";
import { deriveColdShape } from "../launch.ts";
import type { Entry, Machines } from "../machines.ts";
import { processIdentity } from "../machines.ts";
import { killProcess } from "../process.ts";
import { beginMoveRecord, type MoveRecord } from "../record.ts";
import type { RunningMachine } from "../running-machine.ts";
import { beginBaseline, storeBaseline } from "./baseline.ts";
import { callOff } from "./call-off.ts";
import { listChannels, memoryChannel } from "./channels.ts";
import { Course } from "./course.ts";
import { DiskCopier } from "./disk-copier.ts";
import { openGuestMemory } from "./guest-memory.ts";
import { refuseLossyMemory } from "./lossy-memory.ts";
import { awaitMemoryAgain, canWaitForPages, runWithoutMemory } from "./post-copy.ts";
import {
  arrivesWithin,
  hasArrived,
  openChannel,
  openWays,
  shapeFor,
  stopServer,
  unlessGone,
} from "./receive.ts";
import { moveCommitted, moveIncomplete, moveLost, moveOf } from "./refusals.ts";
import { sendMachine, type Sending } from "./send.ts";
import { beginAhead } from "./stream.ts";

export interface MovesOptions {
  readonly machines: Machines;
  readonly platform: Platform;
  readonly host: () => Promise<HostAbilities>;
  /** Makes the files that a machine starts from. */
  prepare(entry: Entry, signal: AbortSignal): Promise<void>;
  readonly lifetime: AbortSignal;
  readonly log: Logger;
}

/** What outlives the calls for one machine that is sent. */
type Outgoing = Pick<Sending, "disks" | "course">;

/** How long a command to run waits for the last of a machine that is said to have arrived. */
const arrivalMs = 1_500;

export class Moves implements LiveMigration {
  readonly #options: MovesOptions;
  readonly #outgoing = new Map<string, Outgoing>();
  /** Of streams that have begun before they are wanted. */
  readonly #ahead = new Map<string, HeldSocket>();

  constructor(options: MovesOptions) {
    this.#options = options;
  }

  readonly postCopy: PostCopy | undefined = canWaitForPages()
    ? {
        run: (plan, signal) => this.#runWithoutMemory(plan, signal),
        giveUp: (id) => this.#giveUp(id),
      }
    : undefined;

  readonly guestModel = async (): Promise<GuestModel> => (await this.#options.host()).model;

  async listChannels(_id: string): Promise<readonly string[]> {
    return listChannels();
  }

  async receive(plan: MachinePlan, signal: AbortSignal): Promise<readonly string[]> {
    const { machines } = this.#options;
    const move = moveOf(plan, MoveRole.DESTINATION);
    const entry = await machines.entry(plan);
    await machines.attach(entry, signal);
    if (entry.record.move?.id !== move.migrationId) await this.#clear(entry, move);
    let { running } = entry;
    if (!running) {
      if (entry.record.move?.begun) throw moveLost();
      const shape = shapeFor(plan, move, await this.guestModel());
      await this.#takeKeptDisk(entry);
      await this.#options.prepare(entry, signal);
      running = await machines.start(entry, shape, "incoming", signal);
    }
    await this.#rememberMove(entry, { begun: true });
    // A guest that runs already has its disks, and its memory's way in is opened again when that is wanted.
    if (!entry.record.move?.committed)
      await openWays(running, plan.directory, move, signal, entry.record.move?.baseline);
    return listChannels();
  }

  async readyChannel(id: string, channel: string, signal: AbortSignal): Promise<void> {
    const entry = this.#options.machines.find(id);
    if (channel !== memoryChannel || !entry?.record.move?.committed) return;
    if (!entry.running) throw moveLost();
    await awaitMemoryAgain(entry.running, entry.plan.directory, signal);
  }

  async connectChannel(id: string, channel: string, signal: AbortSignal): Promise<Duplex> {
    const entry = this.#options.machines.find(id);
    if (!entry?.running) throw moveLost();
    return await openChannel(entry.plan.directory, channel, signal);
  }

  async openMemory(id: string, signal: AbortSignal): Promise<GuestMemory | undefined> {
    const { machines, platform, log } = this.#options;
    const entry = machines.find(id);
    // In post-copy the guest runs, and waits for its pages in the kernel.
    if (!entry?.running || entry.plan.spec.move?.type === MoveType.POSTCOPY) return undefined;
    try {
      return await openGuestMemory(entry.running, platform, signal);
    } catch (fault) {
      // The kernel may forbid it; QEMU does it then.
      log.warn("move.memory-left-to-qemu", { machine: id, fault });
      return undefined;
    }
  }

  async hasArrived(id: string): Promise<boolean> {
    const entry = this.#options.machines.find(id);
    if (entry?.record.move?.role !== "destination") return false;
    if (entry.record.move.complete) return true;
    if (!entry.running || !(await unlessGone(hasArrived(entry.running, this.#options.lifetime))))
      return false;
    await this.#noteArrival(entry, entry.running, { complete: true });
    return true;
  }

  async getReady(
    plan: MachinePlan,
    hold: (channel: string) => HeldSocket,
    signal: AbortSignal,
  ): Promise<void> {
    const { machines } = this.#options;
    const { id, directory } = plan;
    const move = moveOf(plan, MoveRole.SOURCE);
    const entry = await machines.entry(plan);
    await machines.attach(entry, signal);
    if (move.type !== MoveType.LIVE || !entry.running) return; // nothing to begin, or `send` tells why not
    const machine = await this.#beginSending(entry, move, signal);
    const remember = (what: Partial<MoveRecord>) => this.#rememberMove(entry, what);
    const { move: record } = entry.record;
    const held = await beginAhead({ machine, move, record, directory, hold, remember }, signal);
    if (held) this.#ahead.set(id, held);
    else this.#ahead.delete(id);
  }

  async *send(
    plan: MachinePlan,
    socketOf: (channel: string) => string,
    signal: AbortSignal,
    backlog?: MemoryBacklog,
  ): AsyncGenerator<SendProgress> {
    const { machines } = this.#options;
    const move = moveOf(plan, MoveRole.SOURCE);
    const entry = await machines.entry(plan);
    await machines.attach(entry, signal);
    const machine = await this.#beginSending(entry, move, signal);
    if (move.committed) await this.#rememberMove(entry, { committed: true });
    const sending = {
      machine,
      move,
      socketOf,
      backlog,
      ...(await this.#outgoingOf(entry, { machine, baseline: move.baseline, socketOf })),
      ahead: this.#ahead.get(plan.id),
      begun: entry.record.move?.begun ?? false,
      postCopy: entry.record.move?.postCopy ?? false,
      remember: (what: Partial<MoveRecord>) => this.#rememberMove(entry, what),
    };
    try {
      for await (const progress of sendMachine(sending, signal)) {
        if (progress.phase === "handed-over" || progress.phase === "post-copy")
          await this.#rememberMove(entry, { complete: true });
        yield progress;
      }
    } catch (thrown) {
      // What may have been handed over goes on here only when the record says so.
      const undecided = entry.record.move?.complete;
      if (!signal.aborted && entry.running && !undecided) await this.#callOff(entry, entry.running, signal);
      throw thrown;
    }
  }

  async #runWithoutMemory(plan: MachinePlan, signal: AbortSignal): Promise<void> {
    const move = moveOf(plan, MoveRole.DESTINATION);
    const entry = this.#options.machines.find(plan.id);
    if (!entry?.running || entry.record.move?.id !== move.migrationId) throw moveLost();
    if (!move.committed) throw moveIncomplete();
    await this.#noteArrival(entry, entry.running, { committed: true });
    await runWithoutMemory(entry.running, signal);
  }

  async #giveUp(id: string): Promise<boolean> {
    const entry = this.#options.machines.find(id);
    if (entry?.record.move?.role !== "destination" || !entry.record.move.committed) return false;
    await killProcess(processIdentity(id, entry.plan.directory));
    await entry.running?.ended;
    return true;
  }

  /** The machine is none of ours any more, or the driver ends. */
  async letGo(id: string): Promise<void> {
    const outgoing = this.#outgoing.get(id);
    this.#outgoing.delete(id);
    this.#ahead.delete(id);
    await outgoing?.disks[Symbol.asyncDispose]();
  }

  async #outgoingOf(
    { plan: { id, directory } }: Entry,
    options: Omit<ConstructorParameters<typeof DiskCopier>[0], "directory">,
  ): Promise<Outgoing> {
    const known = this.#outgoing.get(id);
    if (known?.disks.machine === options.machine) return known;
    await known?.disks[Symbol.asyncDispose]();
    const outgoing = { disks: new DiskCopier({ ...options, directory }), course: new Course() };
    this.#outgoing.set(id, outgoing);
    return outgoing;
  }

  /** What a plan with a move allows `ensure` to do: true when it may go on as with any plan. */
  async allowsEnsure(entry: Entry): Promise<boolean> {
    const { spec } = entry.plan;
    const { move } = entry.record;
    if (!spec.move) return true;
    if (entry.running) return !move?.cold && spec.power === Power.OFF;
    if (spec.power === Power.OFF) return spec.move.role === MoveRole.SOURCE;
    if (spec.move.role === MoveRole.SOURCE && !move?.begun) return true;
    throw new Fault("conflict", "the machine moves, and may be needed at the other host", {
      reason: "MOVE_UNDECIDED",
    });
  }

  /** Ends the move that the machine is part of, because its plan has none any more. */
  async end(entry: Entry, signal: AbortSignal): Promise<void> {
    const { move } = entry.record;
    if (!move) return;
    const { running } = entry;
    await this.letGo(entry.plan.id);
    if (move.role === "destination") await this.#takeOver(entry, move, signal);
    else if (move.committed) throw moveCommitted();
    else if (running) await this.#callOff(entry, running, signal);
    else await this.#options.machines.remember(entry, { move: undefined });
  }

  async #beginSending(entry: Entry, move: Move, signal: AbortSignal): Promise<RunningMachine> {
    const { machines } = this.#options;
    const cold = move.type === MoveType.COLD;
    const before = entry.record.move;
    if (before?.role === "destination")
      throw new Fault("conflict", "the machine has not arrived here yet", { reason: "MOVE_INCOMPLETE" });
    if (before && before.id !== move.migrationId) await this.end(entry, signal);
    if (!entry.record.move) await machines.remember(entry, { move: beginMoveRecord(move, "source") });
    if (!entry.running && cold && !entry.record.move?.complete) {
      const shape = deriveColdShape(await machines.modelFor(entry));
      return await machines.start(entry, shape, "still", signal);
    }
    const { running } = entry;
    if (!running) throw new Fault("conflict", "the machine does not run", { reason: "MACHINE_NOT_RUNNING" });
    if (!entry.record.move?.begun) await refuseLossyMemory(running, signal);
    const { diskBytes } = entry.plan.spec;
    const present = await findDiskBytes(machineFiles(entry.plan.directory).rootDisk);
    if (present !== undefined && present < diskBytes) await growDisk(running, diskBytes, signal);
    return running;
  }

  async #callOff(entry: Entry, running: RunningMachine, signal: AbortSignal): Promise<void> {
    await this.letGo(entry.plan.id);
    if (entry.record.move?.cold) await this.#endProcess(entry);
    else await callOff(running, signal);
    await this.#options.machines.remember(entry, { move: undefined });
  }

  async #takeOver(entry: Entry, move: MoveRecord, signal: AbortSignal): Promise<void> {
    const { running } = entry;
    if (!running) {
      // Its disk is whole, and that it was committed makes it the only one: it starts as after a crash.
      if (!move.complete && !move.committed) throw moveIncomplete();
    } else if (move.committed) {
      // It runs; the rest of its memory must be here, for nobody keeps it for longer than this.
      if (!(await arrivesWithin(running, arrivalMs, signal))) throw moveIncomplete();
    } else {
      if (!(await arrivesWithin(running, arrivalMs, signal))) throw moveIncomplete();
      if (move.cold) await this.#endProcess(entry);
      else {
        await stopServer(running, signal);
        await this.#noteArrival(entry, running, { complete: true });
        await running.execute("cont", {}, signal);
      }
    }
    if (move.cold)
      await this.#orWithout(entry, storeBaseline(machineFiles(entry.plan.directory), move.id, signal));
    await this.#options.machines.remember(entry, { move: undefined, baseline: move.id });
  }

  /**
   * The guest may run from here on. Before that is remembered, and never after, its disks begin to mark what it writes:
   * a bitmap that was made later would lack something.
   */
  async #noteArrival(
    entry: Entry,
    machine: RunningMachine,
    how: { readonly complete: true } | { readonly committed: true },
  ): Promise<void> {
    const { move } = entry.record;
    if (move && !move.cold && !move.complete && !move.committed)
      await this.#orWithout(entry, beginBaseline(machine, move.id, this.#options.lifetime));
    await this.#rememberMove(entry, how);
  }

  /** A guest that has arrived does not wait for this: at worst a move back carries its whole disk. */
  async #orWithout({ plan }: Entry, marking: Promise<void>): Promise<void> {
    try {
      await marking;
    } catch (fault) {
      this.#options.log.warn("move.no-baseline", { machine: plan.id, fault });
    }
  }

  /**
   * The disk that was kept here becomes the machine's, if the move asks for it and it is still there. Asked again after a
   * crash in between it finds the same: no other disk can be there, since an arriving machine begins with none.
   */
  async #takeKeptDisk(entry: Entry): Promise<void> {
    const files = machineFiles(entry.plan.directory);
    const baseline = entry.record.move?.baseline;
    if (baseline === undefined || (await takeKeptDisk(files, baseline))) return;
    if ((await findDiskBytes(files.rootDisk)) === undefined)
      await this.#rememberMove(entry, { baseline: undefined });
  }

  /** Makes room for a machine that is to arrive. What an earlier attempt has left goes; anything else stays. */
  async #clear(entry: Entry, move: Move): Promise<void> {
    const { machines } = this.#options;
    const files = machineFiles(entry.plan.directory);
    const left = entry.record.move?.role === "destination";
    if (!left && (entry.running || (await findDiskBytes(files.rootDisk)) !== undefined)) {
      throw new Fault("conflict", "the machine is on this host already", { reason: "MACHINE_EXISTS" });
    }
    if (left) await this.#endProcess(entry);
    await machines.makeFolder(entry);
    try {
      await rm(files.rootDisk, { force: true });
    } catch (error) {
      throw hostFault(error, "what an earlier move has left cannot be deleted");
    }
    const begins = beginMoveRecord(move, "destination");
    const { baseline } = move;
    await machines.remember(entry, { move: baseline === "" ? begins : { ...begins, baseline } });
  }

  /** Ends a QEMU whose guest does not run; its disk is saved by then. */
  async #endProcess(entry: Entry): Promise<void> {
    const { id, directory } = entry.plan;
    const { running } = entry;
    await this.#options.machines.remember(entry, { stopRequested: true });
    await killProcess(processIdentity(id, directory));
    await running?.ended;
  }

  async #rememberMove(entry: Entry, change: Partial<MoveRecord>): Promise<void> {
    const { move } = entry.record;
    if (move && Object.entries(change).some(([key, value]) => move[key as keyof MoveRecord] !== value))
      await this.#options.machines.remember(entry, { move: { ...move, ...change } });
  }
}

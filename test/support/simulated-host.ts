/**
 * A host whose agent answers as a real one would, with a machine that is a few numbers: for moves by the
 * hundred. What a guest writes is a counter, so that an old copy that is run shows, as do two that run.
 */
import { create } from "@bufbuild/protobuf";
import {
  MachineSchema,
  MachineState,
  Power,
  type Machine,
  type MachineSpec,
} from "#gen/skerry/agent/v1/machine_pb.js";
import { MovePhase, MoveRole, MoveStatusSchema, type MoveStatus } from "#gen/skerry/agent/v1/migration_pb.js";
import type { PlainFence } from "#cp/agents/port.ts";
import { Fault } from "#kernel/fault.ts";

type Fence = PlainFence;
type Change = { readonly changed: Machine } | { readonly removed: { id: string; seq: bigint; fence: Fence } };

interface SimulatedMachine {
  readonly id: string;
  fence: Fence;
  spec: MachineSpec;
  state: MachineState;
  reached: bigint;
  reason: string;
  move: MoveStatus | undefined;
  /** What the guest has written. */
  written: number;
  /** Destination: all has come. */
  arrived: boolean;
  /** A guest that moves finds itself in a machine like the one that it left. */
  readonly shape: string;
}

/** All simulated hosts of a test, and what an observer outside has seen go wrong. */
export class Simulation {
  readonly hosts = new Map<string, SimulatedHost>();
  readonly seen: string[] = [];
  /** The source stays in this phase until it is taken away; `preparing` holds the destination. */
  holdAt: keyof typeof stages | undefined;
  /** The source fails when it comes to this phase. */
  failAt: keyof typeof stages | undefined;
  /** Targets have not all that sources have handed over. */
  losesArrivals = false;
  /** So many commands to run what has arrived find the target's disk full. */
  fullTargets = 0;
  /** When a source handed over last, and how long after it the target was told to run. */
  handedOverAt = 0;
  readonly gapsMs: number[] = [];
  readonly #newest = new Map<string, number>();

  readonly startHost = (id: string): SimulatedHost => {
    const host = new SimulatedHost(id, this);
    this.hosts.set(id, host);
    return host;
  };

  /** Id of the host on which a guest runs. */
  whereRuns(id: string): string | undefined {
    return [...this.hosts.values()].find((host) => host.isRunning(id))?.id;
  }

  /** Called whenever a guest begins to run. */
  noteRun(host: SimulatedHost, machine: SimulatedMachine): void {
    const others = [...this.hosts.values()].filter((other) => other !== host && other.isRunning(machine.id));
    for (const other of others) this.seen.push(`${machine.id} runs on ${host.id} and on ${other.id}`);
    const newest = this.#newest.get(machine.id) ?? 0;
    if (machine.written < newest) {
      this.seen.push(`${machine.id} runs with ${String(machine.written)} of ${String(newest)} writes`);
    }
  }

  noteWrite({ id, written }: SimulatedMachine): void {
    this.#newest.set(id, written);
  }
}

const { PREPARING, READY, DISK_COPY, PRE_COPY, CONVERGED, SWITCHOVER, HANDED_OVER } = MovePhase;
const stages = {
  preparing: PREPARING,
  ready: READY,
  "disk-copy": DISK_COPY,
  "pre-copy": PRE_COPY,
  converged: CONVERGED,
  switchover: SWITCHOVER,
  "handed-over": HANDED_OVER,
};
/** The next phase of a source; those not named wait for a command. */
const next: Partial<Record<MovePhase, MovePhase>> = {
  [PREPARING]: DISK_COPY,
  [DISK_COPY]: PRE_COPY,
  [PRE_COPY]: CONVERGED,
};

export class SimulatedHost {
  readonly id: string;
  connected = true;
  loseReplies = 0;
  readonly commands: string[] = [];
  readonly #simulation: Simulation;
  readonly #machines = new Map<string, SimulatedMachine>();
  readonly #gone = new Map<string, Fence>();
  readonly #listeners = new Set<(change: Change) => void>();
  #seq = 0n;
  readonly changes = {
    subscribe: (listener: (change: Change) => void): Disposable => {
      this.#listeners.add(listener);
      return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
    },
  };
  readonly manager = {
    ensure: (request: { id: string; fence: Fence; spec: MachineSpec }) => this.#ensure(request),
    remove: (request: { id: string; fence: Fence }) => this.#remove(request),
    list: (): readonly Machine[] => [...this.#machines.values()].map((machine) => this.#view(machine)),
  };

  constructor(id: string, simulation: Simulation) {
    this.id = id;
    this.#simulation = simulation;
  }

  find(id: string): SimulatedMachine | undefined {
    return this.#machines.get(id);
  }

  isRunning(id: string): boolean {
    return this.#machines.get(id)?.state === MachineState.RUNNING;
  }

  holdsAny(id: string): boolean {
    return this.#machines.has(id);
  }

  /** Whether its machine is in a phase of a move. */
  holds(id: string, stage: keyof typeof stages): boolean {
    return this.#machines.get(id)?.move?.phase === stages[stage];
  }

  reply<T>(value: T): T {
    if (this.loseReplies <= 0) return value;
    this.loseReplies--;
    throw new Fault("unavailable", "the connection was cut off", { reason: "HOST_NOT_CONNECTED" });
  }

  async stop(): Promise<void> {
    this.#machines.clear();
  }

  /** Loses everything, its ledger included. */
  wipe(): void {
    this.#machines.clear();
    this.#gone.clear();
  }

  /** Carries on with what was held. */
  resume(id: string): void {
    const machine = this.#machines.get(id);
    if (machine) this.#advance(machine);
  }

  async #ensure({ id, fence, spec }: { id: string; fence: Fence; spec: MachineSpec }): Promise<Machine> {
    this.#accept(id, fence);
    const known = this.#machines.get(id);
    if (!spec.move && known?.arrived && known.reached === 0n && this.#simulation.fullTargets > 0) {
      this.#simulation.fullTargets--;
      throw new Fault("exhausted", "the host's disk is full", { reason: "HOST_DISK_FULL" });
    }
    const machine = known ?? this.#make(id, fence, spec);
    machine.fence = fence;
    machine.spec = spec;
    this.#gone.delete(id);
    if (spec.move) this.#join(machine);
    else this.#settle(machine, known !== undefined);
    this.#publish(machine);
    return this.#view(machine);
  }

  async #remove({ id, fence }: { id: string; fence: Fence }): Promise<boolean> {
    this.#accept(id, fence);
    this.#gone.set(id, fence);
    if (this.#machines.delete(id)) this.#tell({ removed: { id, seq: ++this.#seq, fence } });
    return true;
  }

  #accept(id: string, fence: Fence): void {
    const held = this.#machines.get(id)?.fence ?? this.#gone.get(id);
    const before = held && (fence.epoch - held.epoch || fence.generation - held.generation);
    if (before !== undefined && before <= 0n) {
      throw new Fault("stale", "a newer command has been accepted", { reason: "STALE_FENCE" });
    }
  }

  #make(id: string, fence: Fence, spec: MachineSpec): SimulatedMachine {
    const machine: SimulatedMachine = {
      id,
      fence,
      spec,
      state: MachineState.STOPPED,
      reached: 0n,
      reason: "",
      move: undefined,
      written: 0,
      arrived: false,
      shape: spec.move?.guestShape || `as ${this.id} builds it`,
    };
    this.#machines.set(id, machine);
    return machine;
  }

  /** No move: it runs or not as its owner wants, unless it is only half here. */
  #settle(machine: SimulatedMachine, known: boolean): void {
    const { move, spec } = machine;
    const destination = known && move?.role === MoveRole.DESTINATION && machine.reached === 0n;
    if (destination && !machine.arrived) {
      machine.state = MachineState.FAILED;
      machine.reason = "MOVE_INCOMPLETE";
      return;
    }
    machine.reason = "";
    machine.reached = machine.fence.generation;
    if (spec.power !== Power.ON) {
      machine.state = MachineState.STOPPED;
      return;
    }
    if (destination) this.#simulation.gapsMs.push(performance.now() - this.#simulation.handedOverAt);
    if (destination && move) machine.move = { ...move, resumedMs: 3, resumedAtMs: BigInt(Date.now()) };
    this.#simulation.noteRun(this, machine);
    machine.state = MachineState.RUNNING;
    machine.written++;
    this.#simulation.noteWrite(machine);
  }

  #join(machine: SimulatedMachine): void {
    const { move } = machine.spec;
    if (!move) return;
    if (machine.move?.migrationId !== move.migrationId) {
      machine.move = create(MoveStatusSchema, {
        migrationId: move.migrationId,
        role: move.role,
        phase: PREPARING,
      });
      machine.arrived = false;
      if (move.role === MoveRole.DESTINATION) machine.reached = 0n;
    }
    if (move.role === MoveRole.SOURCE && machine.spec.power !== Power.ON) {
      machine.state = MachineState.STOPPED;
    }
    this.#advance(machine);
  }

  /** Goes on until something is missing: a command, or whoever holds it. */
  #advance(machine: SimulatedMachine): void {
    const { move, spec } = machine;
    if (!move || !spec.move) return;
    if (move.role === MoveRole.DESTINATION) {
      if (move.phase === PREPARING && this.#simulation.holdAt !== "preparing") this.#enter(machine, READY);
      return;
    }
    for (;;) {
      const phase = machine.move?.phase ?? PREPARING;
      const held = this.#simulation.holdAt;
      if (held && stages[held] === phase) return;
      const following = next[phase] ?? (spec.move.switchOver ? this.#handOver(machine, phase) : undefined);
      if (following === undefined) return;
      this.#enter(machine, following);
    }
  }

  #handOver(machine: SimulatedMachine, phase: MovePhase): MovePhase | undefined {
    if (phase === CONVERGED) {
      if (machine.state === MachineState.RUNNING) machine.state = MachineState.PAUSED;
      return SWITCHOVER;
    }
    if (phase !== SWITCHOVER) return undefined;
    const { move } = machine.spec;
    const peer = this.#simulation.hosts.get(move?.peerHostId ?? "")?.find(machine.id);
    const open =
      peer?.spec.move?.role === MoveRole.DESTINATION &&
      Buffer.from(peer.spec.move.ticket).equals(Buffer.from(move?.ticket ?? []));
    const isOn = machine.spec.power === Power.ON;
    if (!open || (isOn && peer.shape !== machine.shape)) return MovePhase.FAILED;
    peer.written = machine.written;
    peer.arrived = !this.#simulation.losesArrivals;
    this.#simulation.handedOverAt = performance.now();
    return HANDED_OVER;
  }

  #enter(machine: SimulatedMachine, phase: MovePhase): void {
    const failing = this.#simulation.failAt;
    const fails = phase === MovePhase.FAILED || (failing !== undefined && stages[failing] === phase);
    const before = machine.move;
    if (!before) return;
    machine.move = create(MoveStatusSchema, {
      ...before,
      phase: fails ? MovePhase.FAILED : phase,
      reason: fails ? "TEST_FAILURE" : "",
      bytesTotal: 1000n,
      bytesRemaining: BigInt(1000 - phase * 100),
      bytesSent: BigInt(phase * 50),
      throughput: 100n,
      ...(phase === HANDED_OVER && { stoppedMs: 7, stoppedAtMs: BigInt(Date.now()) }),
    });
    // What failed before its end leaves the guest running.
    if (fails && machine.spec.power === Power.ON && before.role === MoveRole.SOURCE) {
      this.#simulation.noteRun(this, machine);
      machine.state = MachineState.RUNNING;
    }
    this.#publish(machine);
  }

  #publish(machine: SimulatedMachine): void {
    this.#tell({ changed: this.#view(machine) });
  }

  #tell(change: Change): void {
    for (const listener of this.#listeners) listener(change);
  }

  #view(machine: SimulatedMachine): Machine {
    const { spec, move } = machine;
    return create(MachineSchema, {
      id: machine.id,
      seq: ++this.#seq,
      fence: machine.fence,
      generationReached: machine.reached,
      state: machine.state,
      reason: machine.reason,
      vcpus: spec.vcpus,
      memoryBytes: spec.memoryBytes,
      diskBytes: spec.diskBytes,
      driver: "fake",
      ...(machine.state !== MachineState.STOPPED && { guestShape: machine.shape }),
      ...(move && { move }),
    });
  }
}

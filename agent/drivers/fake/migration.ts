/**
 * Moves of fake machines, over the same sockets as a hypervisor's. It is as unforgiving as one: memory that was cut
 * off on its way is a machine lost, and a source that was killed in the middle of the switch-over goes on, since
 * nobody has been told that it handed over.
 */
import type { Duplex } from "node:stream";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { MoveType } from "#gen/skerry/agent/v1/migration_pb.js";
import type {
  GuestModel,
  LiveMigration,
  MachineEvent,
  MachinePlan,
  PostCopy,
  SendProgress,
} from "../driver.ts";
import type { Gate } from "./gate.ts";
import { Incoming } from "./incoming.ts";
import type { FakeKnobs } from "./knobs.ts";
import { FakeMachine, type Hold } from "./machine.ts";
import { Sending } from "./sending.ts";

export interface FakeMoveDeps {
  readonly find: (id: string) => FakeMachine | undefined;
  readonly keep: (machine: FakeMachine) => void;
  readonly gate: Gate;
  readonly knobs: () => FakeKnobs;
  readonly tell: (event: MachineEvent) => void;
  readonly log: Logger;
  readonly now: () => number;
}

export class FakeLiveMigration implements LiveMigration {
  readonly #deps: FakeMoveDeps;
  readonly #incoming = new Map<string, Incoming>();
  readonly #sending = new Map<string, Sending>();

  constructor(deps: FakeMoveDeps) {
    this.#deps = deps;
  }

  get postCopy(): PostCopy | undefined {
    if (!this.#deps.knobs().postCopy) return undefined;
    return { run: (plan) => this.#run(plan), giveUp: (id) => this.#giveUp(id) };
  }

  async guestModel(): Promise<GuestModel> {
    return { machineTypes: ["fake-2", "fake-1"], cpuModel: "fake" };
  }

  async receive(plan: MachinePlan, signal: AbortSignal): Promise<readonly string[]> {
    const { gate, find, keep } = this.#deps;
    const move = moveOf(plan);
    await gate.enter("receive", signal);
    const isOn = move.type !== MoveType.COLD;
    const machine = find(plan.id) ?? (await FakeMachine.make(plan));
    keep(machine);
    const known = machine.hold?.migrationId === move.migrationId ? machine.hold : undefined;
    if (known?.stage === "incoming" && known.memoryBegun && !this.#incoming.has(plan.id)) throw lost();
    if (!known) await this.#await(machine, plan, isOn);
    const hold = known ?? machine.hold;
    if ((hold?.stage === "incoming" || hold?.stage === "following") && !this.#incoming.has(plan.id)) {
      this.#incoming.set(plan.id, this.#makeIncoming(machine, hold));
    }
    gate.leave("receive");
    return channelsOf(isOn);
  }

  async connectChannel(id: string, channel: string): Promise<Duplex> {
    const incoming = this.#incoming.get(id);
    if (incoming) return incoming.connect(channel);
    throw new Fault("conflict", "the machine does not wait for anything to arrive", { reason: "MOVE_LOST" });
  }

  async hasArrived(id: string): Promise<boolean> {
    const stage = this.#deps.find(id)?.hold?.stage;
    return stage === "arrived" || stage === "followed";
  }

  async listChannels(id: string): Promise<readonly string[]> {
    return channelsOf(this.#deps.find(id)?.isOn === true);
  }

  async *send(
    plan: MachinePlan,
    socketOf: (channel: string) => string,
    signal: AbortSignal,
  ): AsyncGenerator<SendProgress> {
    const { find, keep, gate, knobs, now, log } = this.#deps;
    const move = moveOf(plan);
    const machine = find(plan.id);
    if (!machine || machine.isOn !== (move.type !== MoveType.COLD)) throw blocked(machine);
    if (machine.hold?.stage === "handed-over") {
      yield handedOver;
      return;
    }
    const known = this.#sending.get(plan.id);
    if (known?.migrationId !== move.migrationId) this.end(plan.id);
    const sending = this.#sending.get(plan.id) ?? new Sending(move, { machine, gate, knobs, now });
    this.#sending.set(plan.id, sending);
    try {
      yield* sending.run(move, socketOf, signal);
    } catch (fault) {
      if (signal.aborted) throw fault;
      log.warn("fake.move-failed", { machine: plan.id, fault });
      this.end(plan.id);
      // What may have been handed over goes on only when somebody says so.
      if (machine.hold?.stage !== "offered") machine.setHold(undefined);
      keep(machine);
      throw fault;
    }
  }

  async #run({ id }: MachinePlan): Promise<void> {
    const incoming = this.#incoming.get(id);
    if (incoming) return await incoming.run();
    if (!(await this.hasArrived(id))) throw lost();
  }

  async #giveUp(id: string): Promise<boolean> {
    const { find, tell } = this.#deps;
    const machine = find(id);
    if (machine?.hold?.committed !== true || !this.#isDestination(machine.hold)) return false;
    const wasOn = machine.isOn;
    this.end(id);
    machine.end();
    machine.setHold(undefined);
    if (wasOn) tell({ id, type: "ended", clean: false, detail: "its memory was lost" });
    return true;
  }

  #isDestination({ stage }: Hold): boolean {
    return stage === "incoming" || stage === "following" || stage === "followed";
  }

  /** After the agent's death: the connections are gone. Whatever needed them starts over, or is over. */
  async recover(machine: FakeMachine): Promise<void> {
    const { hold } = machine;
    if (hold?.stage === "switchover") machine.setHold(undefined);
    if (hold?.stage === "incoming" && hold.memoryBegun) machine.end();
  }

  /** The machine moves no more, one way or the other. */
  end(id: string): void {
    this.#incoming.get(id)?.close();
    this.#sending.get(id)?.close();
    this.#incoming.delete(id);
    this.#sending.delete(id);
  }

  async #await(machine: FakeMachine, plan: MachinePlan, isOn: boolean): Promise<void> {
    const { migrationId, baseline } = moveOf(plan);
    // A machine that is here for good must not be written over by one that arrives.
    if (machine.isMade && machine.hold?.stage !== "incoming") throw occupied();
    this.end(plan.id);
    const hold: Hold = { migrationId, stage: "incoming", memoryBegun: false, baseline };
    await machine.await(plan, hold, isOn, this.#deps.now());
  }

  #makeIncoming(machine: FakeMachine, hold: Hold): Incoming {
    const { log, tell } = this.#deps;
    const { id } = machine;
    return new Incoming(machine, hold, log, (arrived) => {
      this.#deps.keep(machine); // it may run now
      if (arrived) return tell({ id, type: "changed" });
      this.#incoming.delete(id);
      machine.end();
      tell({ id, type: "ended", clean: false, detail: "what arrived of the machine was cut off" });
    });
  }
}

const handedOver: SendProgress = {
  phase: "handed-over",
  bytesTotal: 0,
  bytesRemaining: 0,
  zeroBytes: 0,
  dirtyRate: 0,
  throughput: 0,
  rounds: 0,
  predictedDowntimeMs: 0,
};

function channelsOf(isOn: boolean): readonly string[] {
  return isOn ? ["disk:root", "memory"] : ["disk:root"];
}

function moveOf({ spec }: MachinePlan) {
  if (spec.move) return spec.move;
  throw new Fault("internal", "the machine does not move");
}

function lost(): Fault {
  return new Fault("conflict", "what had arrived of the machine is gone", { reason: "MOVE_LOST" });
}

function blocked(machine: FakeMachine | undefined): Fault {
  return machine?.isOn === true
    ? new Fault("conflict", "the machine is on", { reason: "MACHINE_RUNNING" })
    : new Fault("conflict", "the machine does not run", { reason: "MACHINE_NOT_RUNNING" });
}

function occupied(): Fault {
  return new Fault("conflict", "the machine is on this host already", { reason: "MACHINE_EXISTS" });
}

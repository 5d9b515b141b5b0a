/** Two hosts of one process and the commands of one move between them, given as the control plane would give them. */
import { create } from "@bufbuild/protobuf";
import type { FakeKnobs } from "#agent/drivers/fake/knobs.ts";
import {
  type Machine,
  type MachineSpec,
  MachineSpecSchema,
  Power,
  RestartPolicy,
} from "#gen/skerry/agent/v1/machine_pb.js";
import {
  type Move,
  MovePhase,
  MoveRole,
  MoveSchema,
  MoveType,
  OnUnreachable,
} from "#gen/skerry/agent/v1/migration_pb.js";
import { machineId, PipedHost } from "./piped-host.ts";
import { PipedMoves } from "./piped-moves.ts";

const { SOURCE, DESTINATION } = MoveRole;
const never = new AbortController().signal;

export class PipedWorld implements AsyncDisposable {
  readonly moves = new PipedMoves();
  source!: PipedHost;
  destination!: PipedHost;
  /** What differs from a live move in the commands to come. */
  change: Partial<Move> = {};
  migrationId = "mig-1";
  #epoch = 0n;

  static async start(knobs: Partial<FakeKnobs> = {}): Promise<PipedWorld> {
    const world = new PipedWorld();
    const counting = { tickMs: 3, ...knobs };
    world.source = await PipedHost.start(world.moves, counting);
    world.destination = await PipedHost.start(world.moves, counting);
    return world;
  }

  spec(move?: Move, change: Partial<MachineSpec> = {}): MachineSpec {
    const spec = create(MachineSpecSchema, {
      name: "one",
      image: { id: "img-1", type: 1 },
      vcpus: 1,
      memoryBytes: 2n ** 27n,
      diskBytes: 2n ** 26n,
      power: Power.ON,
      restarts: 3n,
      restartPolicy: RestartPolicy.ALWAYS,
    });
    return Object.assign(spec, move ? { move } : {}, change);
  }

  move(role: MoveRole, switchOver = false): Move {
    const move = create(MoveSchema, {
      migrationId: this.migrationId,
      role,
      type: MoveType.LIVE,
      peerHostId: "host-x",
      ticket: Buffer.alloc(32, 7),
      switchOver,
      maxDowntimeMs: 1000,
      onUnreachable: OnUnreachable.ABORT,
    });
    return Object.assign(move, this.change);
  }

  ensure(host: PipedHost, move?: Move, change: Partial<MachineSpec> = {}, waitMs = 5000): Promise<Machine> {
    const fence = { epoch: ++this.#epoch, generation: this.#epoch };
    return host.manager.ensure({ id: machineId, fence, spec: this.spec(move, change), waitMs }, never);
  }

  remove(host: PipedHost, keepDisksSeconds = 0): Promise<boolean> {
    const fence = { epoch: ++this.#epoch, generation: this.#epoch };
    return host.manager.remove({ id: machineId, fence, waitMs: 5000, keepDisksSeconds }, never);
  }

  /** A machine that counts, and a move of it that has begun. */
  async begin(change: Partial<MachineSpec> = {}): Promise<void> {
    await this.ensure(this.source, undefined, change);
    if (change.power !== Power.OFF) await this.source.counts();
    await this.ensure(this.destination, this.move(DESTINATION), change);
    await this.ensure(this.source, this.move(SOURCE), change);
  }

  /** Gives the word to switch over once the source may. */
  async handOver(): Promise<Machine> {
    await this.source.at(MovePhase.CONVERGED);
    return this.ensure(this.source, this.move(SOURCE, true));
  }

  /** As the control plane ends a move that is not to be: first the source goes on, then the destination goes. */
  async turnBack(): Promise<Machine> {
    const on = await this.ensure(this.source);
    await this.remove(this.destination);
    return on;
  }

  /** Every number that was counted, whoever did: each once and in order means that there was one machine. */
  async counted(...hosts: PipedHost[]): Promise<readonly number[]> {
    const ticks = (await Promise.all(hosts.map((host) => host.ticks()))).flat();
    const tokens = new Set(ticks.map((tick) => tick.split(" ")[0]));
    if (tokens.size !== 1) throw new Error(`${String(tokens.size)} lives`);
    return ticks.map((tick) => Number(tick.split(" ")[1]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source[Symbol.asyncDispose]();
    await this.destination[Symbol.asyncDispose]();
  }
}

/** As many numbers as there are, from 1 on: what was counted, if each was counted once and in order. */
export const inOrder = (numbers: readonly number[]) => numbers.map((_, index) => index + 1);

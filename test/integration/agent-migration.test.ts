/** Two agents that move a fake machine between them over mutual TLS, told as the control plane would tell them. */
import { randomBytes } from "node:crypto";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import {
  type Machine,
  type MachineSpec,
  MachineSpecSchema,
  MachineState,
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
import { MoveHost } from "#test/support/move-host.ts";
import { TransportWorld } from "#test/support/transport-world.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, PAUSED } = MachineState;
const { READY, CONVERGED, HANDED_OVER, DISK_COPY } = MovePhase;
const { SOURCE, DESTINATION } = MoveRole;
const never = new AbortController().signal;
const counting = { tickMs: 4 };

const world = await TransportWorld.start();
t.teardown(() => world[Symbol.asyncDispose]());

/** One machine, and its moves from host to host. */
class Mover {
  readonly id: string;
  #epoch = 1n;
  #move = 0;
  source: MoveHost;
  destination: MoveHost;
  relayed = false;
  change: Partial<Move> = {};
  #ticket = randomBytes(32);

  constructor(id: string, source: MoveHost, destination: MoveHost) {
    this.id = id;
    this.source = source;
    this.destination = destination;
  }

  /** The same machine, to be moved from where it is now to another host. */
  next(destination: MoveHost): void {
    this.source = this.destination;
    this.destination = destination;
    this.#move++;
    this.#ticket = randomBytes(32);
  }

  again(): void {
    this.#move++;
    this.#ticket = randomBytes(32);
  }

  spec(move?: Move, change: Partial<MachineSpec> = {}): MachineSpec {
    const spec = create(MachineSpecSchema, {
      name: this.id,
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

  move(role: MoveRole, change: Partial<Move> = {}): Move {
    const peer = role === SOURCE ? this.destination : this.source;
    const move = create(MoveSchema, {
      migrationId: `mig-${this.id}-${String(this.#move)}`,
      role,
      type: MoveType.LIVE,
      peerHostId: peer.id,
      peerAddress: role === DESTINATION && !this.relayed ? peer.address : "",
      ticket: this.#ticket,
      expiresAtMs: BigInt(Date.now() + 60_000),
      maxDowntimeMs: 1000,
      onUnreachable: OnUnreachable.ABORT,
    });
    return Object.assign(move, this.change, change);
  }

  ensure(host: MoveHost, move?: Move, change: Partial<MachineSpec> = {}, waitMs = 10_000): Promise<Machine> {
    const fence = { epoch: ++this.#epoch, generation: this.#epoch };
    const request = { id: this.id, fence, spec: this.spec(move, change), waitMs };
    return world.agents.ensureMachine(host.id, request, never);
  }

  remove(host: MoveHost, keepDisksSeconds = 0): Promise<boolean> {
    const fence = { epoch: ++this.#epoch, generation: this.#epoch };
    return host.manager.remove({ id: this.id, fence, waitMs: 10_000, keepDisksSeconds }, never);
  }

  /** To the moment before the switch-over is asked for. */
  async begin(): Promise<void> {
    const ready = await this.ensure(this.destination, this.move(DESTINATION));
    t.equal(ready.move?.phase, READY, "the destination is ready");
    t.equal(ready.state, PAUSED, "and runs nothing");
    const begun = await this.ensure(this.source, this.move(SOURCE));
    t.ok((begun.move?.phase ?? 0) >= DISK_COPY, "the source is answered once the move has begun");
  }

  async handOver(): Promise<Machine> {
    await this.at(this.source, CONVERGED);
    return this.ensure(this.source, this.move(SOURCE, { switchOver: true }));
  }

  async whole(): Promise<{ handed: Machine; arrived: Machine }> {
    await this.begin();
    const handed = await this.handOver();
    const arrived = await this.ensure(this.destination);
    await this.remove(this.source);
    return { handed, arrived };
  }

  /** Waits until the machine's move is in a phase there. */
  async at(host: MoveHost, phase: MovePhase): Promise<void> {
    await until(() => this.view(host)?.move?.phase === phase, 30_000);
  }

  view(host: MoveHost): Machine | undefined {
    return host.manager.list().find(({ id }) => id === this.id);
  }

  /** Waits until the guest counts there. */
  async counts(host: MoveHost): Promise<void> {
    const before = (await host.ticks(this.id)).length;
    await until(async () => (await host.ticks(this.id)).length > before + 2);
  }
}

type Checks = Pick<typeof t, "equal" | "same">;

/** Every number of one token once and in order, whichever host printed it. */
function checkCounting(t: Checks, ...consoles: (readonly string[])[]): void {
  const ticks = consoles.flat();
  const tokens = new Set(ticks.map((tick) => tick.split(" ")[0]));
  t.equal(tokens.size, 1, "one life of the guest");
  const counted = ticks.map((tick) => Number(tick.split(" ")[1]));
  t.same(
    counted,
    counted.map((_, index) => index + 1),
    "it counted every number once and in order",
  );
}

await t.test("a machine moves while it counts, and back", async (t) => {
  await using a = await MoveHost.start(world, "a1", counting);
  await using b = await MoveHost.start(world, "b1", counting);
  const mover = new Mover("vm-1", a, b);
  await mover.ensure(a);
  await mover.counts(a);
  await mover.begin();
  const handed = await mover.handOver();
  t.match(handed.move, { phase: HANDED_OVER });
  t.ok((handed.move?.stoppedMs ?? NaN) < 1000, `stopped for ${String(handed.move?.stoppedMs)} ms`);
  const printed = await a.ticks("vm-1");
  const arrived = await mover.ensure(b);
  t.equal(arrived.state, RUNNING);
  t.match(arrived.move, { phase: HANDED_OVER });
  t.ok((arrived.move?.resumedAtMs ?? 0n) >= (handed.move?.stoppedAtMs ?? 1n), "both say when");
  await mover.counts(b);
  t.same(await a.ticks("vm-1"), printed, "the source stood still");
  checkCounting(t, printed, await b.ticks("vm-1"));
  t.equal(await mover.remove(a), true);
  t.equal(await a.hasFolder("vm-1"), false);
  mover.next(a);
  const back = await mover.whole();
  t.equal(back.arrived.state, RUNNING);
  await mover.counts(a);
});

/**
 * The cases that every driver with live migration passes, between two hosts of it whose sockets are joined here by
 * nothing but pipes. As in conformance.ts, the test runner comes in as a parameter.
 */
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { toFault } from "#kernel/fault.ts";
import { deadline, sleep } from "#kernel/retry.ts";
import { type MachineSpec, MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import {
  type Move,
  MoveRole,
  MoveSchema,
  MoveType,
  OnUnreachable,
} from "#gen/skerry/agent/v1/migration_pb.js";
import type { Bench, ConformanceOptions, Suite } from "./conformance.ts";
import type { LiveMigration, MachinePlan, SendProgress } from "./driver.ts";

const MiB = 1024n ** 2n;

/** Runs all cases; each gets two hosts of its own. */
export async function moveConformance(t: Suite, options: ConformanceOptions): Promise<void> {
  for (const [name, body] of Object.entries(cases)) {
    await t.test(name, async (child) => {
      await using source = await options.make();
      await using destination = await options.make();
      using signal = deadline(options.limitMs, name);
      await using pair = new Pair(source, destination, signal);
      await body(child, pair);
    });
  }
}

/** Two hosts, and one machine that is to move from the first to the second. */
class Pair implements AsyncDisposable {
  source: Bench;
  destination: Bench;
  readonly signal: AbortSignal;
  /** Which move it is. */
  #move: Partial<Move> = { migrationId: "mig-conformance" };
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();

  constructor(source: Bench, destination: Bench, signal: AbortSignal) {
    this.source = source;
    this.destination = destination;
    this.signal = signal;
  }

  plan(bench: Bench, move?: Partial<Move>): MachinePlan {
    const id = "vm-mover";
    const spec = create(MachineSpecSchema, {
      ...{ name: id, hostname: id, vcpus: 1, memoryBytes: 128n * MiB, diskBytes: 64n * MiB },
      power: Power.ON,
      stopTimeoutSeconds: 0,
    });
    const directory = join(bench.directory, id);
    return { id, spec: move ? withMove(spec, move) : spec, image: bench.image, directory };
  }

  async sourceMove(change: Partial<Move> = {}): Promise<MachinePlan> {
    return this.plan(this.source, {
      role: MoveRole.SOURCE,
      ...this.#move,
      ...(await this.#model()),
      ...change,
    });
  }

  async destinationMove(): Promise<MachinePlan> {
    const guestShape = (await this.source.driver.inspect("vm-mover"))?.guestShape ?? "";
    return this.plan(this.destination, {
      role: MoveRole.DESTINATION,
      ...this.#move,
      ...(await this.#model()),
      guestShape,
    });
  }

  /** From here on it moves the other way, to disks that may be kept since the last move. */
  turn(baseline: string): void {
    [this.source, this.destination] = [this.destination, this.source];
    this.#move = { migrationId: "mig-back", baseline };
  }

  /** Makes both machines and joins their channels. */
  async begin(): Promise<void> {
    const { signal } = this;
    await this.source.driver.ensure(this.plan(this.source), signal);
    const plan = await this.destinationMove();
    for (const channel of await live(this.destination).receive(plan, signal)) await this.#join(channel);
  }

  socketOf(channel: string): string {
    return join(this.source.directory, `${channel.replace(":", "-")}.sock`);
  }

  /** Sends until a phase has been told; the progress that told it. */
  async sendUntil(phase: SendProgress["phase"], plan: MachinePlan): Promise<SendProgress> {
    const leave = new AbortController();
    const signal = AbortSignal.any([this.signal, leave.signal]);
    for await (const told of live(this.source).send(plan, (channel) => this.socketOf(channel), signal)) {
      if (told.phase === phase) return told;
    }
    throw new Error(`the move ended without ${phase}`);
  }

  async state(bench: Bench): Promise<string | undefined> {
    return (await bench.driver.inspect("vm-mover"))?.state;
  }

  async clean(): Promise<void> {
    for (const bench of [this.source, this.destination]) {
      const { id, directory } = this.plan(bench);
      await bench.driver.remove(id, directory, this.signal);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    for (const server of this.#servers) server.close();
  }

  /** As the source tells it to the control plane, and the control plane to the destination. */
  async #model(): Promise<Partial<Move>> {
    const { machineTypes, cpuModel } = await live(this.source).guestModel();
    return { machineType: machineTypes[0] ?? "", cpuModel };
  }

  async #join(channel: string): Promise<void> {
    const path = this.socketOf(channel);
    await rm(path, { force: true });
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      void this.#pipe(channel, socket);
    });
    server.listen(path);
    await once(server, "listening");
    this.#servers.push(server);
  }

  async #pipe(channel: string, from: Socket): Promise<void> {
    this.#sockets.add(from);
    from.on("error", () => from.destroy()); // the driver sees that it closed
    try {
      const driver = live(this.destination);
      await driver.readyChannel?.("vm-mover", channel, this.signal);
      const to = await driver.connectChannel("vm-mover", channel, this.signal);
      to.on("error", () => from.destroy());
      to.once("close", () => from.destroy());
      from.once("close", () => to.destroy());
      from.pipe(to).pipe(from);
    } catch {
      from.destroy();
    }
  }
}

type Case = (t: Suite, pair: Pair) => Promise<void>;

const cases: Record<string, Case> = {
  "a machine moves when it is told to, and not before": async (t, pair) => {
    const { source, destination, signal } = pair;
    await pair.begin();
    t.equal(await pair.state(destination), "paused", "the destination stands still");
    await pair.sendUntil("converged", await pair.sourceMove());
    t.equal(await pair.state(source), "running", "the guest runs until the word");
    t.equal(await live(destination).hasArrived("vm-mover"), false, "and has not arrived");
    const last = await pair.sendUntil("handed-over", await pair.sourceMove({ switchOver: true }));
    t.ok((last.stoppedAtMs ?? 0) > 0, "it says when the guest stopped");
    t.ok((last.stoppedMs ?? -1) >= 0, "and for how long it took");
    while (!(await live(destination).hasArrived("vm-mover"))) await sleep(20, signal);
    t.equal(await pair.state(source), "paused", "the source stands still");
    t.equal(await pair.state(destination), "paused", "and so does the destination");
    const again = await pair.sendUntil("handed-over", await pair.sourceMove({ switchOver: true }));
    t.equal(again.phase, "handed-over", "asked again, it has handed over");
    const arrived = await destination.driver.ensure(pair.plan(destination), signal);
    t.equal(arrived.state, "running", "it runs when told to");
    t.equal(await pair.state(source), "paused", "there only");
    await pair.clean();
  },

  "a move that is called off leaves the guest running": async (t, pair) => {
    const { source, destination, signal } = pair;
    await pair.begin();
    const before = await source.driver.inspect("vm-mover");
    await pair.sendUntil("converged", await pair.sourceMove());
    const after = await source.driver.ensure(pair.plan(source), signal);
    t.equal(after.state, "running", "it runs");
    t.same(after.startedAt, before?.startedAt, "and was not restarted");
    t.equal(await live(destination).hasArrived("vm-mover"), false, "nothing has arrived");
    await pair.clean();
  },

  "a handed-over source may go on when nothing was committed": async (t, pair) => {
    const { source, destination, signal } = pair;
    await pair.begin();
    await pair.sendUntil("handed-over", await pair.sourceMove({ switchOver: true }));
    const { id, directory } = pair.plan(destination);
    await destination.driver.remove(id, directory, signal);
    t.equal((await source.driver.ensure(pair.plan(source), signal)).state, "running", "the source goes on");
    await pair.clean();
  },

  "a machine moves back to the disk that was kept, or all of it does": async (t, pair) => {
    const { source, destination, signal } = pair;
    const arrive = async () => {
      await pair.begin();
      await pair.sendUntil("handed-over", await pair.sourceMove({ switchOver: true }));
      await pair.destination.driver.ensure(pair.plan(pair.destination), signal);
      const { id, directory } = pair.plan(pair.source);
      await pair.source.driver.remove(id, directory, signal, { keepDisks: true });
    };
    await arrive();
    t.same(await source.driver.recover([pair.plan(source)], signal), [], "what is kept is no machine");
    const { baseline = "" } = (await destination.driver.inspect("vm-mover")) ?? {};
    t.ok(["", "mig-conformance"].includes(baseline), "it counts from the move, or says that it does not");
    pair.turn(baseline);
    await arrive();
    t.equal(await pair.state(source), "running", "it is back");
    await pair.clean();
  },

  "half a machine is not run": async (t, pair) => {
    const { destination, signal } = pair;
    await pair.begin();
    const reason = await destination.driver.ensure(pair.plan(destination), signal).then(
      () => "",
      (thrown: unknown) => toFault(thrown).reason,
    );
    t.equal(reason, "MOVE_INCOMPLETE", "ensure refuses");
    t.equal(await pair.state(destination), "paused", "and it stands still");
    await pair.clean();
  },
};

function withMove(spec: MachineSpec, change: Partial<Move>): MachineSpec {
  const move = create(MoveSchema, {
    type: MoveType.LIVE,
    peerHostId: "host-peer",
    ticket: new Uint8Array(32),
    maxDowntimeMs: 2000,
    onUnreachable: OnUnreachable.FORCE,
  });
  return Object.assign(spec, { move: Object.assign(move, change) });
}

function live({ driver }: Bench): LiveMigration {
  if (driver.liveMigration) return driver.liveMigration;
  throw new Error(`the driver ${driver.name} moves no machines`);
}

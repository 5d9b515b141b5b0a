/** A machine's part in a move, told as the control plane would: to its end, called off, failing and killed at each phase. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { FakeDriver } from "#agent/drivers/fake/driver.ts";
import type { FakeCall, FakeKnobs } from "#agent/drivers/fake/knobs.ts";
import { ChangeFeed } from "#agent/machines/change-feed.ts";
import {
  decodeIntent,
  decodeProgress,
  encodeIntent,
  encodeProgress,
  newProgress,
} from "#agent/machines/entry.ts";
import { Ledger } from "#agent/machines/ledger.ts";
import { defaultTiming, type MachineDeps, type MachineTiming } from "#agent/machines/machine-deps.ts";
import { MachineManager } from "#agent/machines/manager.ts";
import { recoverMachines } from "#agent/machines/recover.ts";
import { checkSpec } from "#agent/rpc/machine-checks.ts";
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
  MoveStatusSchema,
  MoveType,
  OnUnreachable,
} from "#gen/skerry/agent/v1/migration_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { PipedMoves } from "#test/support/piped-moves.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, PAUSED, STOPPED } = MachineState;
const { PREPARING, READY, DISK_COPY, PRE_COPY, CONVERGED, SWITCHOVER, POST_COPY, HANDED_OVER, FAILED } =
  MovePhase;
const { SOURCE, DESTINATION } = MoveRole;
const never = new AbortController().signal;
const id = "vm-1";

/** An agent's machines on a folder; killed and started again it finds what is there. */
class Host implements AsyncDisposable {
  readonly directory: string;
  driver!: FakeDriver;
  manager!: MachineManager;
  #deps!: MachineDeps;
  #stop = new AbortController();
  readonly #moves: PipedMoves;
  readonly #knobs: Partial<FakeKnobs>;
  nowMs = () => Date.now();
  timing: Partial<MachineTiming> = {};

  private constructor(directory: string, moves: PipedMoves, knobs: Partial<FakeKnobs>) {
    this.directory = directory;
    this.#moves = moves;
    this.#knobs = knobs;
  }

  static async start(moves: PipedMoves, knobs: Partial<FakeKnobs> = {}): Promise<Host> {
    const host = new Host(await mkdtemp(join(tmpdir(), "skerry-move-")), moves, knobs);
    await host.start();
    return host;
  }

  async start(): Promise<void> {
    const ledger = await Ledger.open({ directory: join(this.directory, "ledger"), log: silentLogger });
    this.driver = new FakeDriver({ log: silentLogger, knobs: this.#knobs });
    this.#deps = {
      driver: this.driver,
      images: { ensure: async () => ({ type: "disk", path: "/nowhere", format: "raw" }) },
      moves: this.#moves,
      timing: {
        ...defaultTiming,
        backoff: { baseMs: 5, capMs: 10 },
        attempts: 4,
        progressMs: 10,
        ...this.timing,
      },
      now: () => this.nowMs(),
      directoryOf: (machine) => join(this.directory, "machines", machine),
      changes: new ChangeFeed(),
      log: silentLogger,
      ledger,
    };
    this.manager = new MachineManager(this.#deps);
    this.#stop = new AbortController();
    void this.manager.run(this.#stop.signal);
    await recoverMachines(this.manager, this.#deps, never);
  }

  /** The agent dies: whatever it held is cut, and nothing is tidied up. */
  async kill(): Promise<void> {
    this.#stop.abort();
    await this.driver[Symbol.asyncDispose]();
    await this.manager.close({ pullPlugs: false }, never);
  }

  get view(): Machine | undefined {
    return this.manager.list().find((machine) => machine.id === id);
  }

  get phase(): MovePhase | undefined {
    return this.view?.move?.phase;
  }

  async at(phase: MovePhase): Promise<void> {
    await until(() => this.phase === phase);
  }

  /** Whether it runs, as somebody sees who looks at the host from outside. */
  async runs(): Promise<boolean> {
    const text = await readFile(join(this.directory, "machines", id, "fake.json"), "utf8").catch(() => "{}");
    const { running, hold } = JSON.parse(text) as { running?: object; hold?: { stage: string } };
    return running !== undefined && (hold === undefined || hold.stage.startsWith("follow"));
  }

  async ticks(): Promise<readonly string[]> {
    const log = await readFile(join(this.directory, "machines", id, "console.log"), "latin1").catch(() => "");
    return [...log.matchAll(/^tick (.*)\r$/gm)].map(([, tick = ""]) => tick);
  }

  async counts(): Promise<void> {
    const before = (await this.ticks()).length;
    await until(async () => (await this.ticks()).length > before + 2);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** Two hosts and the commands of one move. */
class World implements AsyncDisposable {
  readonly moves = new PipedMoves();
  source!: Host;
  destination!: Host;
  change: Partial<Move> = {};
  migrationId = "mig-1";
  #epoch = 0n;

  static async start(knobs: Partial<FakeKnobs> = {}): Promise<World> {
    const world = new World();
    const counting = { tickMs: 3, ...knobs };
    world.source = await Host.start(world.moves, counting);
    world.destination = await Host.start(world.moves, counting);
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

  ensure(host: Host, move?: Move, change: Partial<MachineSpec> = {}, waitMs = 5000): Promise<Machine> {
    const fence = { epoch: ++this.#epoch, generation: this.#epoch };
    return host.manager.ensure({ id, fence, spec: this.spec(move, change), waitMs }, never);
  }

  remove(host: Host, keepDisksSeconds = 0): Promise<boolean> {
    const fence = { epoch: ++this.#epoch, generation: this.#epoch };
    return host.manager.remove({ id, fence, waitMs: 5000, keepDisksSeconds }, never);
  }

  /** A machine that counts, and a move of it that has begun. */
  async begin(change: Partial<MachineSpec> = {}): Promise<void> {
    await this.ensure(this.source, undefined, change);
    if (change.power !== Power.OFF) await this.source.counts();
    await this.ensure(this.destination, this.move(DESTINATION), change);
    await this.ensure(this.source, this.move(SOURCE), change);
  }

  async handOver(): Promise<Machine> {
    await this.source.at(CONVERGED);
    return this.ensure(this.source, this.move(SOURCE, true));
  }

  /** As the control plane ends a move that is not to be: first the source goes on, then the destination goes. */
  async turnBack(): Promise<Machine> {
    const on = await this.ensure(this.source);
    await this.remove(this.destination);
    return on;
  }

  /** Every number that was counted, whoever did: each once and in order means that there was one machine. */
  async counted(...hosts: Host[]): Promise<readonly number[]> {
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

const inOrder = (numbers: readonly number[]) => numbers.map((_, index) => index + 1);

await t.test("from command to command", async (t) => {
  await using world = await World.start();
  const { source, destination } = world;
  await world.ensure(source);
  await source.counts();
  const ready = await world.ensure(destination, world.move(DESTINATION));
  t.match(ready, { state: PAUSED, move: { phase: READY, role: DESTINATION, migrationId: "mig-1" } });
  t.equal(ready.generationReached, ready.fence?.generation, "being ready is what was asked for");
  const begun = await world.ensure(source, world.move(SOURCE));
  t.ok((begun.move?.phase ?? 0) >= DISK_COPY, "answered as soon as it has begun");
  t.equal(begun.state, RUNNING);
  await source.at(CONVERGED);
  await source.counts();
  const handed = await world.ensure(source, world.move(SOURCE, true));
  t.match(handed, { state: PAUSED, move: { phase: HANDED_OVER, reason: "", bytesRemaining: 0n } });
  const { stoppedAtMs = 0n, stoppedMs = NaN, phaseMs = {}, bytesSent = 0n, rounds = 0 } = handed.move ?? {};
  t.ok(stoppedMs >= 0 && stoppedMs < 1000 && stoppedAtMs > 0n, `it stopped for ${String(stoppedMs)} ms`);
  t.same(Object.keys(phaseMs), ["preparing", "disk-copy", "pre-copy", "converged", "switchover"]);
  t.ok(bytesSent > 64n * 4096n && rounds > 1, "with what it cost");
  const stopped = await source.ticks();
  t.equal((await destination.ticks()).length, 0, "nothing runs there before the word");
  const arrived = await world.ensure(destination);
  t.match(arrived, { state: RUNNING, restarts: 3n, move: { phase: HANDED_OVER } }, "it was not restarted");
  t.ok((arrived.move?.resumedAtMs ?? 0n) >= stoppedAtMs);
  await destination.counts();
  t.same(await source.ticks(), stopped, "the source stands still");
  const counted = await world.counted(source, destination);
  t.same(counted, inOrder(counted), "every number once");
  t.equal(await world.remove(source), true);
  t.equal(source.view, undefined);
  await destination.kill();
  await destination.start();
  t.match(
    destination.view?.move,
    { phase: HANDED_OVER, resumedAtMs: arrived.move?.resumedAtMs },
    "it is remembered",
  );

  world.migrationId = "mig-2";
  await world.ensure(source, world.move(DESTINATION));
  await world.ensure(destination, world.move(SOURCE));
  await destination.at(CONVERGED);
  t.match((await world.ensure(destination, world.move(SOURCE, true))).move, {
    migrationId: "mig-2",
    role: SOURCE,
  });
  t.equal((await world.ensure(source)).state, RUNNING, "and it can go back");
});

const phases: [MovePhase, FakeCall | undefined][] = [
  [DISK_COPY, "disk-copy"],
  [PRE_COPY, "pre-copy"],
  [CONVERGED, undefined],
  [SWITCHOVER, "switchover"],
  [HANDED_OVER, undefined],
];

/** Brings a move to a phase and holds it there. */
async function hold(world: World, phase: MovePhase, call: FakeCall | undefined): Promise<void> {
  world.source.driver.set({ hold: call ? [call] : [] });
  await world.begin();
  if (phase === SWITCHOVER) {
    await world.source.at(CONVERGED);
    await world.ensure(world.source, world.move(SOURCE, true), {}, 0);
  }
  if (phase === HANDED_OVER) await world.handOver();
  await world.source.at(phase);
}

for (const [phase, call] of phases) {
  const name = MovePhase[phase];
  await t.test(`called off in phase ${name}`, async (t) => {
    await using world = await World.start();
    const { source, destination } = world;
    await hold(world, phase, call);
    const on = await world.turnBack();
    t.match(on, { state: RUNNING, move: { phase: FAILED, reason: "MOVE_CALLED_OFF" } });
    await source.counts();
    const counted = await world.counted(source);
    t.same(counted, inOrder(counted), "it goes on as if nothing had been");
    t.equal(destination.view, undefined);
    t.same(await readdir(join(destination.directory, "machines")), [], "no debris");
    source.driver.set({ hold: [] });
    world.migrationId = "mig-2";
    await world.ensure(destination, world.move(DESTINATION));
    await world.ensure(source, world.move(SOURCE));
    t.match((await world.handOver()).move, { phase: HANDED_OVER }, "another move comes through");
  });

  await t.test(`the source's agent is killed in phase ${name}`, async (t) => {
    await using world = await World.start();
    const { source, destination } = world;
    await hold(world, phase, call);
    await source.kill();
    const before = await source.ticks();
    await source.start();
    if (phase === HANDED_OVER) {
      t.match(source.view, { state: PAUSED, move: { phase: HANDED_OVER } }, "it stays stopped");
      t.same(await source.ticks(), before);
      t.equal((await world.ensure(destination)).state, RUNNING, "and has arrived");
      return;
    }
    // The disk's channel comes back; what had begun to arrive of its memory is lost.
    await until(() => source.phase !== MovePhase.PREPARING);
    t.equal(await source.runs(), true);
    t.equal(await destination.runs(), false);
    if (phase > PRE_COPY) await destination.at(FAILED);
    else if (phase === DISK_COPY) await source.at(CONVERGED);
    t.match(await world.turnBack(), { state: RUNNING });
    await source.counts();
    const counted = await world.counted(source);
    t.same(counted, inOrder(counted));
  });

  await t.test(`the destination's agent is killed in phase ${name}`, async (t) => {
    await using world = await World.start();
    const { source, destination } = world;
    await hold(world, phase, call);
    await destination.kill();
    await destination.start();
    t.equal(await destination.runs(), false, "it starts nothing");
    source.driver.set({ hold: [] });
    if (phase === HANDED_OVER) {
      await destination.at(HANDED_OVER);
      t.equal((await world.ensure(destination)).state, RUNNING, "it had arrived, and runs when told to");
      return;
    }
    if (phase <= PRE_COPY) {
      t.match((await world.handOver()).move, { phase: HANDED_OVER }, "the disk's channel is taken up again");
      return;
    }
    await source.at(FAILED);
    t.equal(source.view?.state, RUNNING, "the source goes on");
    await destination.at(FAILED);
    t.match(destination.view?.move, { phase: FAILED, reason: "MOVE_LOST" });
    await world.turnBack();
    await source.counts();
  });
}

await t.test(
  "nothing is sent while nobody takes it, and the ways are closed before the guest is to go on",
  async (t) => {
    await using world = await World.start();
    const { source, destination } = world;
    await world.ensure(source);
    await world.ensure(source, world.move(SOURCE), {}, 100);
    t.equal(source.phase, MovePhase.PREPARING);
    t.equal(world.moves.cut("disk:root"), 0, "the hypervisor has not connected");
    await world.ensure(destination, world.move(DESTINATION));
    await source.at(CONVERGED);
    source.driver.set({ hold: ["ensure"] });
    const on = world.ensure(source);
    await until(() => source.driver.waiting === 1);
    t.equal(world.moves.cut("disk:root") + world.moves.cut("memory"), 0, "its connections are closed");
    source.driver.set({ hold: [] });
    t.match(await on, { state: RUNNING, move: { phase: FAILED, reason: "MOVE_CALLED_OFF" } });
  },
);

await t.test("what the driver cannot do is not done in another way", async (t) => {
  await using world = await World.start();
  world.change = { type: MoveType.POSTCOPY };
  const { source, destination } = world;
  await world.ensure(source);
  const refused = { phase: FAILED, reason: "POSTCOPY_UNSUPPORTED" };
  t.match((await world.ensure(destination, world.move(DESTINATION))).move, refused);
  t.match(await world.ensure(source, world.move(SOURCE)), { state: RUNNING, move: refused });
});

await t.test("a move that fails at the source leaves the guest running", async (t) => {
  for (const call of ["disk-copy", "pre-copy", "switchover"] as const) {
    await using world = await World.start();
    const { source, destination } = world;
    const failure = { call, when: "before", times: 1, code: "conflict", reason: "TOLD_TO" } as const;
    source.driver.set({ failures: [failure] });
    await world.begin();
    if (call === "switchover") await world.handOver();
    await source.at(FAILED);
    t.match(source.view, { move: { reason: "TOLD_TO", migrationId: "mig-1" } }, call);
    t.equal(source.view?.state, RUNNING);
    t.match(
      (await world.ensure(source, world.move(SOURCE, true))).move,
      { phase: FAILED },
      "it is not tried again",
    );
    await source.counts();
    t.equal(await destination.runs(), false);
    t.match((await world.ensure(source)).move, { phase: FAILED, reason: "TOLD_TO" }, "the reason stays");
  }
});

await t.test("what fails at the destination", async (t) => {
  await using world = await World.start();
  const { source, destination } = world;
  const failure = { call: "receive", when: "before" } as const;
  const passing = { ...failure, times: 2, code: "unavailable", reason: "BUSY" } as const;
  destination.driver.set({ failures: [passing] });
  t.match(
    (await world.ensure(destination, world.move(DESTINATION))).move,
    { phase: READY },
    "what passes is tried again",
  );
  await world.remove(destination);
  destination.driver.set({ failures: [{ ...failure, times: 9, code: "unavailable", reason: "BUSY" }] });
  await world.ensure(destination, world.move(DESTINATION));
  await until(() => destination.phase === FAILED);
  t.match(destination.view?.move, { reason: "BUSY" }, "but not for ever");
  await world.remove(destination);
  destination.driver.set({ failures: [] });

  await world.begin();
  await source.at(CONVERGED);
  t.match(
    await world.ensure(destination, undefined, {}, 1000),
    { reason: "MOVE_INCOMPLETE" },
    "half a machine is not run",
  );
  await world.ensure(destination, world.move(DESTINATION));
  await destination.driver.end(id, false);
  await destination.at(FAILED);
  t.match(destination.view?.move, { reason: "MOVE_LOST" });
  t.equal(destination.view?.state, STOPPED, "nothing is restarted");
  await source.at(FAILED);
  t.equal(source.view?.state, RUNNING);
  t.match(await world.ensure(source), { state: RUNNING });
  t.match(
    (await world.ensure(destination, world.move(DESTINATION))).move,
    { phase: FAILED },
    "the failure is final",
  );

  await using other = await World.start();
  await other.begin();
  await other.handOver();
  await other.destination.at(HANDED_OVER);
  await other.destination.driver.end(id, false);
  await other.destination.at(FAILED);
  t.match(
    other.destination.view,
    { state: STOPPED, move: { reason: "MOVE_LOST" } },
    "an arrived machine that died",
  );
  t.match(await other.turnBack(), { state: RUNNING }, "is not lost: the source has it");
});

await t.test("what has arrived whole waits until its host has room to run it", async (t) => {
  for (const when of ["before", "after"] as const) {
    await using world = await World.start();
    const { destination } = world;
    await world.begin();
    await world.handOver();
    await destination.at(HANDED_OVER);
    const full = { call: "ensure", when, code: "exhausted", reason: "HOST_DISK_FULL", times: 10 } as const;
    destination.driver.set({ failures: [full] });
    t.match(await world.ensure(destination), { state: RUNNING, crashes: 0n }, when);
    t.ok((destination.view?.move?.resumedAtMs ?? 0n) > 0n);
    await destination.counts();
  }
});

await t.test("a disk's connection that is cut comes back; memory's does not", async (t) => {
  await using world = await World.start({ pagesPerSecond: 400, tickMs: 10 });
  const { source } = world;
  source.driver.set({ hold: ["pre-copy"] });
  await world.begin();
  await until(() => world.moves.cut("disk:root") > 0);
  await source.at(PRE_COPY);
  source.driver.set({ hold: [], pagesPerSecond: 0 });
  await source.at(CONVERGED);
  await until(() => world.moves.cut("memory") > 0);
  await source.at(FAILED);
  t.match(source.view, { state: RUNNING, move: { reason: "MOVE_CHANNEL_LOST" } });
});

await t.test("a source that crashes", async (t) => {
  await using world = await World.start();
  const { source } = world;
  await world.begin();
  await source.at(CONVERGED);
  await source.driver.end(id, false);
  await source.at(FAILED);
  await until(() => source.view?.state === RUNNING);
  t.equal(source.view?.crashes, 1n, "is restarted by its policy while it may");

  await using late = await World.start();
  late.source.driver.set({ hold: ["switchover"] });
  await late.begin();
  await late.source.at(CONVERGED);
  await late.ensure(late.source, late.move(SOURCE, true), {}, 0);
  await late.source.at(SWITCHOVER);
  await late.source.driver.end(id, false);
  await late.source.at(FAILED);
  await late.source.kill();
  await late.source.start();
  t.equal(late.source.view?.state, STOPPED, "but not once it may have handed over");
  t.match(await late.turnBack(), { state: RUNNING }, "until the control plane says so");
});

await t.test("a source whose peer is not ready yet", async (t) => {
  await using world = await World.start();
  const { source } = world;
  await world.ensure(source);
  await world.ensure(source, world.move(SOURCE), {}, 0);
  await source.at(PREPARING);
  await source.counts();
  t.match(source.view, { state: RUNNING, reason: "" }, "waits, and its guest runs");
  await world.ensure(world.destination, world.move(DESTINATION));
  await world.handOver();
  t.equal(source.phase, HANDED_OVER, "goes on when it has come");

  await using other = await World.start();
  await other.ensure(other.source);
  await other.ensure(other.source, other.move(SOURCE), {}, 0);
  await other.source.at(PREPARING);
  await other.source.driver.end(id, false);
  await other.source.at(FAILED);
  t.equal(other.source.view?.move?.reason, "MACHINE_NOT_RUNNING");
  await until(() => other.source.view?.state === RUNNING);
  t.equal(other.source.view?.crashes, 1n, "a guest that ends meanwhile is restarted by its policy");
});

await t.test("what a source began ahead waits only for a while", async (t) => {
  await using world = await World.start();
  const { source } = world;
  await source.kill();
  source.timing = { pulls: { lookMs: 5, soonMs: 100, mostMs: 800 } };
  await source.start();
  const asked: number[] = [];
  source.driver.liveMigration.getReady = async () => void asked.push(performance.now());
  await world.ensure(source);
  await world.ensure(source, world.move(SOURCE), {}, 0);
  await source.at(FAILED);
  t.equal(source.view?.move?.reason, "MOVE_NOT_PULLED");
  t.equal(source.view?.state, RUNNING, "its guest runs on");
  const [first = NaN, second = NaN] = asked;
  t.equal(asked.length, 2, "the driver was told once more, and not at every look");
  t.ok(second - first >= 100, "which for a driver means that it took too long");

  await world.ensure(source);
  world.migrationId = "mig-2";
  asked.length = 0;
  await world.ensure(world.destination, world.move(DESTINATION));
  await world.ensure(source, world.move(SOURCE));
  await world.handOver();
  t.equal(asked.length, 1, "not where the other host comes in time");
});

await t.test("a guest that writes faster than the link carries", async (t) => {
  const ends = [
    [OnUnreachable.ABORT, { state: RUNNING, move: { phase: FAILED, reason: "MAX_DOWNTIME_UNREACHABLE" } }],
    [OnUnreachable.THROTTLE, { state: PAUSED, move: { phase: HANDED_OVER } }],
    [OnUnreachable.FORCE, { state: PAUSED, move: { phase: HANDED_OVER } }],
  ] as const;
  for (const [onUnreachable, end] of ends) {
    await using world = await World.start({ tickMs: 2, dirtyPages: 60, pagesPerSecond: 800 });
    world.change = { onUnreachable, maxDowntimeMs: 20 };
    await world.begin();
    t.match(await world.handOver(), end, OnUnreachable[onUnreachable]);
  }
});

await t.test("a machine that is off moves with its disk", async (t) => {
  await using world = await World.start({ tickMs: 0 });
  world.change = { type: MoveType.COLD };
  await world.begin({ power: Power.OFF });
  await world.source.at(CONVERGED);
  t.match(await world.ensure(world.source, world.move(SOURCE, true), { power: Power.OFF }), {
    state: STOPPED,
    move: { phase: HANDED_OVER },
  });
  t.match(await world.ensure(world.destination, undefined, { power: Power.OFF }), { state: STOPPED });
  t.match(await world.ensure(world.destination), { state: RUNNING }, "and can be turned on there");
  t.equal(await world.source.runs(), false);
});

await t.test("disks that are kept for a while, and moves back to them", async (t) => {
  await using world = await World.start({ tickMs: 3, diskPages: 4000 });
  const { source: first, destination: second } = world;
  const folders = (host: Host) => readdir(join(host.directory, "machines"));
  const stale = async (host: Host) =>
    (await folders(host)).length > 0 &&
    (await readdir(join(host.directory, "machines", id))).includes("stale.bin");
  /** Moves it, with what the destination says that it has taken and how much of the disk was not sent. */
  const move = async (migrationId: string, [source, destination]: [Host, Host], baseline = "") => {
    Object.assign(world, { migrationId, source, destination, change: { baseline } });
    await world.begin();
    const taken = destination.view?.move?.baseline;
    const { move: sent } = await world.handOver();
    const arrived = await world.ensure(destination);
    t.equal(arrived.diskBaseline, migrationId, "it knows what is written from here on");
    t.equal(await world.remove(source, 60), true);
    return { taken, kept: Number(sent?.bytes?.diskKept) / 4096 };
  };

  t.same(await move("mig-1", [first, second]), { taken: "", kept: 0 });
  t.equal(first.view, undefined, "no machine any more");
  t.ok(await stale(first));
  await first.kill();
  await first.start();
  t.ok(await stale(first), "a restart of the agent keeps them");
  t.equal(await first.runs(), false);

  const back = await move("mig-2", [second, first], "mig-1");
  t.equal(back.taken, "mig-1");
  t.ok(back.kept > 2000 && back.kept < 4000, `${String(back.kept)} of 4000 pages were kept`);

  await first.driver.end(id, false);
  await until(() => first.view?.state === RUNNING && first.view.crashes === 1n);
  t.equal(first.view?.diskBaseline, "", "after a crash nothing is known");
  t.same(await move("mig-3", [first, second], "mig-2"), { taken: "mig-2", kept: 0 }, "so all of it is sent");

  t.same(await move("mig-4", [second, first], "mig-1"), { taken: "", kept: 0 }, "kept since another move");

  t.ok(await stale(second));
  await second.kill();
  second.nowMs = () => Date.now() + 61_000;
  await second.start();
  await until(async () => (await folders(second)).length === 0);
  await first.counts();
});

await t.test("what a command must look like, and what the ledger keeps of it", async (t) => {
  const world = new World();
  const wrong: Partial<Move>[] = [
    { migrationId: "../etc" },
    { role: MoveRole.UNSPECIFIED },
    { type: MoveType.UNSPECIFIED },
    { peerHostId: "a/b" },
    { ticket: Buffer.alloc(15) },
    { peerAddress: "nowhere" },
  ];
  for (const change of wrong) {
    const move = Object.assign(world.move(SOURCE), change);
    t.match(
      await reasonOf(() => checkSpec(world.spec(move))),
      /COMMAND_INVALID|ADDRESS_INVALID/,
      JSON.stringify(change, bigints),
    );
  }
  t.equal(await reasonOf(() => checkSpec(world.spec(world.move(SOURCE)))), undefined);
  const fence = { epoch: 3n, generation: 4n };
  const intent = { fence, spec: world.spec(world.move(SOURCE, true)) };
  t.same(decodeIntent(id, encodeIntent(id, intent)), intent);
  const removal = { fence, spec: undefined, keepDisksSeconds: 9 };
  t.same(decodeIntent(id, encodeIntent(id, removal)), removal);
  const move = create(MoveStatusSchema, { migrationId: "mig-1", phaseMs: { ready: 7n }, cpuSeconds: 0.5 });
  const progress = { ...newProgress(5n), keptUntilMs: 8, move };
  t.same(decodeProgress(encodeProgress(progress)), progress);
});

function bigints(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

/** A guest that writes faster than it leaves, and a move that may let its memory follow it. */
async function makeFollower(change: Partial<MachineSpec> = {}): Promise<World> {
  const world = await World.start({ postCopy: true, dirtyPages: 16, pagesPerSecond: 4000 });
  world.change = { type: MoveType.POSTCOPY, maxDowntimeMs: 1 };
  await world.begin(change);
  t.match(await world.handOver(), { state: PAUSED, move: { phase: POST_COPY } }, "it stopped for good");
  return world;
}

/** The record says that the guest is the destination's. */
async function commit(world: World, change: Partial<MachineSpec> = {}): Promise<Machine> {
  Object.assign(world.change, { committed: true });
  const [, runs] = await Promise.all([
    world.ensure(world.source, world.move(SOURCE, true), change),
    world.ensure(world.destination, world.move(DESTINATION), change),
  ]);
  return runs;
}

await t.test("post-copy: a guest that writes too fast runs before its memory is there", async (t) => {
  await using world = await makeFollower();
  const { source, destination } = world;
  t.ok((source.view?.move?.convergence?.stalls ?? 0) > 0, "what it struggled with is told");
  t.same([await source.runs(), await destination.runs()], [false, false], "nobody runs before the commit");
  const early = await world.ensure(destination);
  t.match(early, { state: MachineState.FAILED, reason: "MOVE_INCOMPLETE" }, "nor without its state");
  t.match(await commit(world), { state: RUNNING, move: { phase: POST_COPY } });
  await Promise.all([source.at(HANDED_OVER), destination.at(HANDED_OVER)]);
  t.ok((source.view?.move?.convergence?.postCopyBytes ?? 0n) > 0n);
  t.ok((destination.view?.move?.resumedAtMs ?? 0n) > 0n);
  await world.ensure(source);
  t.equal(source.view?.reason, "MOVE_COMMITTED", "the source never goes on");
  t.match(await world.ensure(destination), { state: RUNNING, restarts: 3n, move: { phase: HANDED_OVER } });
  await destination.counts();
  const counted = await world.counted(source, destination);
  t.same(counted, inOrder(counted), "every number once");
  t.equal(await world.remove(source), true);
});

await t.test("post-copy: called off before the commit, the guest goes on", async (t) => {
  await using world = await makeFollower();
  const { source, destination } = world;
  await source.kill();
  await source.start();
  t.match(source.view, { state: PAUSED, move: { phase: POST_COPY } }, "an agent's death decides nothing");
  t.match(await world.turnBack(), { state: RUNNING });
  await source.counts();
  const counted = await world.counted(source, destination);
  t.same(counted, inOrder(counted));
});

await t.test("post-copy: connections and agents come and go", async (t) => {
  await using world = await makeFollower();
  const { source, destination } = world;
  source.driver.set({ pagesPerSecond: 50 });
  t.match(await commit(world), { state: RUNNING });
  await until(() => world.moves.cut("memory") > 0);
  await until(() => (source.view?.move?.convergence?.recoveries ?? 0) > 0);
  for (const host of [source, destination]) {
    await host.kill();
    await host.start();
  }
  t.match(destination.view, { state: RUNNING, move: { phase: POST_COPY } });
  await Promise.all([source.at(HANDED_OVER), destination.at(HANDED_OVER)]);
  t.match(await world.ensure(destination), { state: RUNNING, restarts: 3n });
  await destination.counts();
  const counted = await world.counted(source, destination);
  t.same(counted, inOrder(counted), "every number once");
});

await t.test("post-copy: memory that is lost is a crash, and the disk is whole", async (t) => {
  for (const restartPolicy of [RestartPolicy.ALWAYS, RestartPolicy.NEVER]) {
    await using world = await makeFollower({ restartPolicy });
    const { source, destination } = world;
    source.driver.set({ pagesPerSecond: 20 });
    t.match(await commit(world, { restartPolicy }), { state: RUNNING });
    source.driver.set({ crash: [id] });
    await source.at(FAILED);
    t.equal(destination.phase, POST_COPY, "there it waits for the word");
    await world.ensure(destination, undefined, { restartPolicy });
    const again = restartPolicy === RestartPolicy.ALWAYS;
    await until(() => destination.view?.state === (again ? RUNNING : STOPPED));
    t.match(destination.view?.move, { phase: FAILED, reason: "MEMORY_LOST" });
    t.equal(await source.runs(), false);
    const lives = async () => new Set((await destination.ticks()).map((tick) => tick.split(" ")[0])).size;
    if (again) await until(async () => (await lives()) === 2);
  }
});

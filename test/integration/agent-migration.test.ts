/** Two agents that move a fake machine between them over mutual TLS, told as the control plane would tell them. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { connect, type IncomingHttpHeaders } from "node:http2";
import { join } from "node:path";
import t from "tap";
import { nodeProgram } from "#cp/local/programs.ts";
import { create } from "@bufbuild/protobuf";
import { pullPath } from "#agent/migration/protocol.ts";
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
import { createCertificateRequest, newPrivateKey } from "#kernel/certificate-request.ts";
import { readTicks } from "#test/support/guest-ticks.ts";
import { MoveHost } from "#test/support/move-host.ts";
import { Program } from "#test/support/program.ts";
import { fileSha256, TransportWorld } from "#test/support/transport-world.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, PAUSED } = MachineState;
const { READY, CONVERGED, SWITCHOVER, HANDED_OVER, FAILED, DISK_COPY } = MovePhase;
const { SOURCE, DESTINATION } = MoveRole;
const never = new AbortController().signal;
const counting = { tickMs: 4 };

const world = await TransportWorld.start();
t.teardown(() => world[Symbol.asyncDispose]());

/** What a test needs of a host, in this process or another. */
interface Host {
  readonly id: string;
  /** Of its own port. */
  readonly address: string;
  view(id: string): Machine | undefined;
  ticks(id: string): Promise<readonly string[]>;
}

/** One machine, and its moves from host to host. */
class Mover {
  readonly id: string;
  #epoch = 1n;
  #move = 0;
  source: Host;
  destination: Host;
  #ticket = randomBytes(32);

  constructor(id: string, source: Host, destination: Host) {
    this.id = id;
    this.source = source;
    this.destination = destination;
  }

  /** The same machine, to be moved from where it is now to another host. */
  next(destination: Host): void {
    this.source = this.destination;
    this.destination = destination;
    this.#move++;
    this.#ticket = randomBytes(32);
  }

  spec(move?: Move, change: Partial<MachineSpec> = {}): MachineSpec {
    const spec = create(MachineSpecSchema, {
      name: this.id,
      image: { id: "img-1", type: 1, files: [{ role: "disk", sha256: fileSha256, format: "raw" }] },
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
      peerAddress: role === DESTINATION ? peer.address : "",
      ticket: this.#ticket,
      expiresAtMs: BigInt(Date.now() + 60_000),
      maxDowntimeMs: 1000,
      onUnreachable: OnUnreachable.ABORT,
    });
    return Object.assign(move, change);
  }

  ensure(host: Host, move?: Move, change: Partial<MachineSpec> = {}, waitMs = 10_000): Promise<Machine> {
    const fence = { epoch: ++this.#epoch, generation: this.#epoch };
    const request = { id: this.id, fence, spec: this.spec(move, change), waitMs };
    return world.agents.ensureMachine(host.id, request, never);
  }

  remove(host: Host): Promise<boolean> {
    const fence = { epoch: ++this.#epoch, generation: this.#epoch };
    return world.agents.removeMachine(host.id, { id: this.id, fence, waitMs: 10_000 }, never);
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
  async at(host: Host, phase: MovePhase): Promise<void> {
    await until(() => host.view(this.id)?.move?.phase === phase);
  }

  /** Waits until the guest counts there. */
  async counts(host: Host): Promise<void> {
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
  const session = connect(`https://${a.address}`, { ...(await operator()), servername: a.id });
  const stream = session.request({
    ":method": "POST",
    ":path": pullPath,
    "content-type": "application/grpc+proto",
  });
  const [headers] = (await once(stream, "response")) as [IncomingHttpHeaders];
  t.match(headers, { "grpc-status": "7" }, "operators may not pull");
  session.destroy();
});

async function operator(): Promise<{ key: string; cert: string; ca: string }> {
  const key = newPrivateKey();
  const cert = await world.authority.issueOperator("ann", createCertificateRequest(key));
  const ca = world.authority.certificatePem;
  return { key: key.export({ type: "pkcs8", format: "pem" }).toString(), cert, ca };
}

/** An agent as a process of its own, with the fake driver. */
class AgentProcess implements Host, AsyncDisposable {
  readonly id: string;
  readonly #program: Program;
  readonly #data: string;
  readonly #name: string;
  readonly #knobs: string;

  constructor(name: string) {
    this.#name = name;
    this.id = `host-${name}`;
    this.#data = join(world.directory, name);
    this.#knobs = join(world.directory, `${name}-knobs.json`);
    this.#program = new Program({
      name,
      argv: nodeProgram("agent/main"),
      env: {
        PATH: process.env["PATH"] ?? "",
        SKERRY_AGENT_DATA: this.#data,
        SKERRY_AGENT_GATEWAY: world.address,
        SKERRY_AGENT_NAME: name,
        SKERRY_AGENT_DRIVER: "fake",
        SKERRY_AGENT_LISTEN_HOST: "127.0.0.1",
        SKERRY_AGENT_LISTEN_PORT: "0",
        SKERRY_AGENT_FAKE_KNOBS_FILE: this.#knobs,
        SKERRY_AGENT_TOKEN: world.token(`tok-${name}`),
      },
      logFile: join(world.directory, `${name}.log`),
      announcesReady: false,
    });
  }

  async start(...hold: string[]): Promise<void> {
    await this.hold(...hold);
    await mkdir(this.#data, { recursive: true });
    forget(this.id);
    await this.#program.start();
    await until(() => world.agents.connected().includes(this.id) && this.address !== "");
  }

  /** Moves wait before these parts. */
  async hold(...calls: string[]): Promise<void> {
    await writeFile(this.#knobs, JSON.stringify({ ...counting, hold: calls }));
  }

  async kill(): Promise<void> {
    await this.#program.kill();
    await until(() => !world.agents.connected().includes(this.id));
  }

  get address(): string {
    const full = world.reports.find(({ hostId, report }) => hostId === this.id && report.full);
    return full?.report.facts?.listenAddress ?? "";
  }

  view(id: string): Machine | undefined {
    const mine = world.reports.filter(({ hostId }) => hostId === this.id);
    return mine.flatMap(({ report }) => report.machines.filter((machine) => machine.id === id)).at(-1);
  }

  ticks(id: string): Promise<readonly string[]> {
    return readTicks(join(this.#data, "machines", id));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program[Symbol.asyncDispose]();
  }
}

/** What a host told before it was killed. */
function forget(hostId: string): void {
  const others = world.reports.filter((report) => report.hostId !== hostId);
  world.reports.splice(0, world.reports.length, ...others);
}

await t.test("kill -9 of the agents", async (t) => {
  await using a = new AgentProcess("pa");
  await using b = new AgentProcess("pb");
  await a.start("disk-copy");
  await b.start();
  const mover = new Mover("vm-2", a, b);
  await mover.ensure(a);
  await mover.counts(a);
  await mover.begin();
  await mover.at(a, DISK_COPY);
  await b.kill();
  await b.start();
  await a.hold();
  t.match((await mover.handOver()).move, { phase: HANDED_OVER }, "the destination took the disk up again");
  await a.kill();
  const printed = await a.ticks("vm-2");
  await a.start();
  await mover.at(a, HANDED_OVER);
  t.equal(a.view("vm-2")?.state, PAUSED, "a source that handed over stays stopped");
  const arrived = await mover.ensure(b);
  t.match(arrived, { state: RUNNING });
  await mover.counts(b);
  t.same(await a.ticks("vm-2"), printed);
  checkCounting(t, printed, await b.ticks("vm-2"));
  await mover.remove(a);

  await b.hold("switchover");
  mover.next(a);
  await mover.begin();
  await mover.at(b, CONVERGED);
  await mover.ensure(b, mover.move(SOURCE, { switchOver: true }), {}, 0);
  await mover.at(b, SWITCHOVER);
  await b.kill();
  await b.start();
  await mover.at(a, FAILED);
  t.match(await mover.ensure(b), { state: RUNNING }, "a source that was killed before goes on");
  await mover.remove(a);
  await mover.counts(b);
  t.equal((await a.ticks("vm-2")).length, 0);
  const counted = (await b.ticks("vm-2")).map((tick) => Number(tick.split(" ")[1]));
  t.same(
    counted,
    counted.map((_, index) => index + (counted[0] ?? 0)),
    "every number once",
  );
});

/** A machine between two QEMU drivers on this host whose sockets are joined by plain pipes, as two agents would join them. */
import { create } from "@bufbuild/protobuf";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Duplex } from "node:stream";
import type { LocalImage, MachineDriver, MachinePlan, SendProgress } from "#agent/drivers/driver.ts";
import { createQemuDriver } from "#agent/drivers/qemu/driver.ts";
import { buildMicro } from "#agent/images/micro/build.ts";
import { type MachineSpec, MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import {
  type Move,
  MoveRole,
  MoveSchema,
  MoveType,
  OnUnreachable,
} from "#gen/skerry/agent/v1/migration_pb.js";
import { silentLogger } from "#kernel/log.ts";
import { sleep } from "#kernel/retry.ts";
import { until } from "./until.ts";

const MiB = 1024n ** 2n;

export interface Side extends AsyncDisposable {
  driver: MachineDriver;
  /** A new driver over what the last one left behind, as after `kill -9` of the agent. */
  succeed(): Promise<void>;
  pid(): Promise<number>;
  readonly directory: string;
  readonly plan: MachinePlan;
  console(): Promise<string>;
}

export class MoveWorld implements AsyncDisposable {
  readonly id: string;
  source: Side;
  destination: Side;
  readonly #root: string;
  readonly #servers = new Map<string, Server>();
  readonly #pipes = new Set<Socket>();
  /** Channels on which nothing goes on until they are taken out. */
  readonly held = new Set<string>();
  /** Bytes that the source has sent of each channel's last connection. */
  readonly sent = new Map<string, number>();
  /** How many bytes of a channel get through in a second. */
  rateOf: (channel: string) => number = () => Infinity;

  constructor(id: string, root: string, source: Side, destination: Side) {
    this.id = id;
    this.#root = root;
    this.source = source;
    this.destination = destination;
  }

  readonly socketOf = (channel: string) => join(this.#root, `${channel.replace(":", "-")}.sock`);

  async stateOf(side: Side): Promise<string | undefined> {
    return (await side.driver.inspect(this.id))?.state;
  }

  /**
   * Moves the guest until it is handed over, or as far as `seen` lets it. @param change what the move is to be
   * @param seen called with all that is told; false ends the sending there
   */
  async move(
    change: Partial<Move>,
    signal: AbortSignal,
    seen: (progress: SendProgress) => boolean | Promise<boolean> = () => true,
  ): Promise<{ last: SendProgress | undefined; phases: string[] }> {
    await this.receive(change, signal);
    return await this.send(change, signal, seen);
  }

  async send(
    change: Partial<Move>,
    signal: AbortSignal,
    seen: (progress: SendProgress) => boolean | Promise<boolean> = () => true,
  ): Promise<{ last: SendProgress | undefined; phases: string[] }> {
    const plan = this.withMove(this.source, MoveRole.SOURCE, { switchOver: true, ...change });
    const phases: string[] = [];
    let last: SendProgress | undefined;
    for await (const progress of this.source.driver.liveMigration!.send(plan, this.socketOf, signal)) {
      last = progress;
      if (phases.at(-1) !== progress.phase) phases.push(progress.phase);
      if (!(await seen(progress))) break;
    }
    return { last, phases };
  }

  async receive(change: Partial<Move>, signal: AbortSignal): Promise<void> {
    const guestShape = (await this.source.driver.inspect(this.id))?.guestShape ?? "";
    const plan = this.withMove(this.destination, MoveRole.DESTINATION, { guestShape, ...change });
    const migration = this.destination.driver.liveMigration!;
    for (const channel of await migration.receive(plan, signal)) await this.#listen(channel, signal);
  }

  withMove(side: Side, role: MoveRole, change: Partial<Move>): MachinePlan {
    const defaults = { migrationId: "mig-1", role, type: MoveType.LIVE, onUnreachable: OnUnreachable.ABORT };
    const move = Object.assign(create(MoveSchema, defaults), change);
    return { ...side.plan, spec: { ...side.plan.spec, move } };
  }

  async #listen(channel: string, signal: AbortSignal): Promise<void> {
    if (this.#servers.has(channel)) return;
    const server = createServer((near) => void this.#join(near, channel, signal));
    this.#servers.set(channel, server);
    server.listen(this.socketOf(channel));
    await until(() => server.listening);
  }

  /** From here on it moves the other way. */
  turn(): void {
    [this.source, this.destination] = [this.destination, this.source];
  }

  /** Ends all connections; they may come again. */
  cut(): void {
    for (const pipe of this.#pipes) pipe.destroy();
  }

  async #join(near: Socket, channel: string, signal: AbortSignal): Promise<void> {
    this.#pipes.add(near);
    near.on("error", () => near.destroy());
    try {
      const migration = this.destination.driver.liveMigration!;
      await migration.readyChannel?.(this.id, channel, signal);
      const far = await migration.connectChannel(this.id, channel, signal);
      if (near.destroyed) far.destroy(); // it was cut meanwhile
      far.on("error", () => near.destroy());
      far.on("close", () => near.destroy());
      near.on("close", () => far.destroy());
      this.sent.set(channel, 0);
      const count = (bytes: number) => this.sent.set(channel, (this.sent.get(channel) ?? 0) + bytes);
      await Promise.all([this.#pump(near, far, channel, count), this.#pump(far, near, channel)]);
    } catch {
      near.destroy();
    } finally {
      this.#pipes.delete(near);
    }
  }

  async #pump(from: Duplex, to: Duplex, channel: string, count?: (bytes: number) => void): Promise<void> {
    for await (const chunk of from as AsyncIterable<Buffer>) {
      await until(() => !this.held.has(channel) || from.destroyed, 100_000);
      if (!to.write(chunk)) await once(to, "drain");
      count?.(chunk.length);
      const waitMs = count ? (chunk.length * 1000) / this.rateOf(channel) : 0;
      if (waitMs > 0) await sleep(waitMs);
    }
    to.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers.values()) server.close();
    this.cut();
    await this.source[Symbol.asyncDispose]();
    await this.destination[Symbol.asyncDispose]();
    await rm(this.#root, { recursive: true });
  }
}

export async function makeWorld(id: string, change: Partial<MachineSpec>): Promise<MoveWorld> {
  const root = await mkdtemp(join(tmpdir(), "qemu-move-"));
  return new MoveWorld(
    id,
    root,
    await makeSide(root, "a", id, change),
    await makeSide(root, "b", id, change),
  );
}

async function makeSide(root: string, name: string, id: string, change: Partial<MachineSpec>): Promise<Side> {
  // Far longer than the path of a socket may be.
  const directory = join(root, name.repeat(60), "x".repeat(60), id);
  const makeDriver = () => createQemuDriver({ stateDirectory: join(root, name), log: silentLogger });
  await mkdir(join(root, name.repeat(60), "x".repeat(60)), { recursive: true });
  const spec = create(MachineSpecSchema, {
    name: id,
    hostname: id,
    vcpus: 1,
    memoryBytes: 128n * MiB,
    diskBytes: 64n * MiB,
    power: Power.ON,
  });
  const plan = { id, spec: Object.assign(spec, change), image: await loadMicro(), directory };
  const side: Side = {
    driver: makeDriver(),
    directory,
    plan,
    succeed: async () => {
      await side.driver[Symbol.asyncDispose]();
      side.driver = makeDriver();
    },
    pid: async () => Number(await readFile(join(directory, "qemu.pid"), "utf8")),
    console: () => readFile(side.driver.console!.logPath(directory), "utf8"),
    [Symbol.asyncDispose]: async () => {
      await side.driver.remove(id, directory, AbortSignal.timeout(60_000));
      await side.driver[Symbol.asyncDispose]();
    },
  };
  return side;
}

async function loadMicro(): Promise<LocalImage & { type: "kernel" }> {
  const outDir = process.env["SKERRY_MICRO_DIR"] ?? join("node_modules", ".cache", "skerry", "micro");
  const signal = AbortSignal.timeout(240_000);
  const manifest = await buildMicro({ outDir, signal, log: silentLogger });
  const pathOf = (role: string) => resolve(outDir, manifest.files.find((f) => f.role === role)!.path);
  return {
    type: "kernel",
    kernelPath: pathOf("kernel"),
    initrdPath: pathOf("initrd"),
    commandLine: manifest.command_line,
  };
}

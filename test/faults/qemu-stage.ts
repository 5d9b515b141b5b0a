/** Two hosts with real QEMUs, guests that move between them, and judgement of what became of a move. */
import { readdir } from "node:fs/promises";
import type { Test } from "tap";
import type { Database } from "#cp/store/database.ts";
import type { Skerry } from "#sdk/client.ts";
import type { Migration } from "#sdk/kinds/generated.ts";
import { machineFiles } from "#agent/drivers/hypervisor/files.ts";
import type { Teardown } from "#test/support/postgres.ts";
import { findProcessesOf } from "#test/support/processes.ts";
import { until } from "#test/support/until.ts";
import { installCommitHolds } from "./commit-hold.ts";
import { clientOf, listMachines, MiB, openDatabase, untilQuiet } from "./faults-world.ts";
import { MigrationCloud } from "./migration-cloud.ts";
import { points, strikes, type Point, type PointName, type Scene, type Strike } from "./qemu-strikes.ts";
import { type Noted, QemuGuest } from "./qemu-guest.ts";
import { type Areas, findDiskDamage, vouchingScript } from "./vouching-guest.ts";

export type Fate = "moves" | "stays" | "either" | "ends" | "survives";

const settleLimitMs = 90_000;
/** Slow enough that each phase can be met. */
const bandwidth_limit = 48 * MiB;
const pollMs = 20;
/** What a guest is, and what it vouches for. */
export interface GuestShape extends Omit<Areas, "seed"> {
  readonly cpus: number;
  readonly memoryBytes: number;
}
const smallGuest: GuestShape = {
  cpus: 1,
  memoryBytes: 128 * MiB,
  inMemory: 4,
  onDisk: 1,
  numbers: 20_000,
};

export class QemuStage {
  readonly world: MigrationCloud;
  readonly #seed: number;
  readonly #database: Database;
  readonly #skerry: Skerry;
  readonly #hostNames: ReadonlyMap<string, string>;

  private constructor(
    world: MigrationCloud,
    seed: number,
    database: Database,
    skerry: Skerry,
    hostNames: ReadonlyMap<string, string>,
  ) {
    this.world = world;
    this.#seed = seed;
    this.#database = database;
    this.#skerry = skerry;
    this.#hostNames = hostNames;
  }

  /** @param keepAliveMs a connection that is silent for so long counts as dead */
  static async set(t: Teardown, seed: number, keepAliveMs: number): Promise<QemuStage> {
    const world = await MigrationCloud.start(t, {}, { driver: "qemu", keepAliveMs });
    await installCommitHolds(world.databaseUrl);
    const skerry = clientOf(world.cloud);
    const names = new Map<string, string>();
    for await (const { id, name } of skerry.hosts.list()) names.set(id, name);
    return new QemuStage(world, seed, openDatabase(t, world.cloud), skerry, names);
  }

  async boot(name: string, shape: GuestShape = smallGuest): Promise<QemuGuest> {
    const given = { ...shape, seed: this.#seed };
    const { id } = await this.#skerry.instances.create({
      name,
      spec: {
        image: "micro",
        cpus: shape.cpus,
        memory_bytes: shape.memoryBytes,
        disk_bytes: 64 * MiB,
        restart_policy: "always",
        user_data: vouchingScript(given),
      },
    });
    const guest = new QemuGuest(id, this.world.foldersOf(id), given);
    await this.#skerry.instances.waitFor(id, { phases: ["running"], timeoutMs: settleLimitMs });
    await guest.vouches();
    return guest;
  }

  async hostOf(guest: QemuGuest): Promise<string> {
    const { status } = await this.#skerry.instances.get(guest.id);
    return this.#hostNames.get(status?.host_id ?? "") ?? "";
  }

  /** Strikes one move of the guest at one point, mends everything, and looks at what is there then. */
  async tryOne(t: Test, guest: QemuGuest, at: PointName, name: string, fate: Fate): Promise<void> {
    const { world } = this;
    const strike = strikes[name];
    if (!strike) throw new Error(`nothing is called ${name}`);
    if (strike.needsDisk && world.disks.size === 0) {
      t.comment(`${at}: ${name}: this user may not mount a disk for it`);
      return;
    }
    const point: Point = points[at];
    const begunMs = performance.now();
    const from = await this.hostOf(guest);
    const to = from === "site-1" ? "site-2" : "site-1";
    const scene: Scene = { world, qemus: guest.qemus, instance: guest.id, from, to, migration: "" };
    const before = guest.noted;
    const marks: string[] = [];
    const mark = (what: string) => marks.push(`${what} ${((performance.now() - begunMs) / 1000).toFixed(1)}`);
    await this.#strikeMove(scene, point, strike);
    mark("mended");
    await world.cloud.untilHosts("online");
    mark("online");
    const migration = await this.#settled(guest, scene.migration);
    mark("settled");
    await guest.vouches();
    mark("vouched");
    const outcome = await this.#judge(t, guest, { at, name, fate, scene, migration, before });
    mark("judged");
    t.comment(`  ${outcome}: seconds to ${marks.join(", ")}`);
  }

  async #strikeMove(scene: Scene, point: Point, { strike, mend }: Strike): Promise<void> {
    try {
      await point.arm?.(scene);
      scene.migration = await this.world.migrate(scene.instance, { bandwidth_limit });
      await until(() => point.isReached(scene), settleLimitMs, 5);
      await point.hold?.(scene);
      await strike(scene);
    } finally {
      const released = point.release(scene);
      await mend?.(scene);
      await released;
    }
  }

  /** Moves the guest with nobody in the way, and looks at all that it holds. */
  async move(t: Test, guest: QemuGuest, how: object): Promise<void> {
    const begunMs = performance.now();
    const before = guest.noted;
    const from = await this.hostOf(guest);
    const { phase, status } = await this.#settled(guest, await this.world.migrate(guest.id, how));
    const endedMs = performance.now();
    await guest.vouches();
    const error = status?.error ?? null;
    const actual = { phase, error, ...guest.since(before), running: await guest.qemus.running() };
    const to = from === "site-1" ? "site-2" : "site-1";
    const flawless = { error: null, twice: [], gaps: [], damage: [], lives: 0 };
    t.same(actual, { phase: "complete", ...flawless, running: [to] }, `moved to ${to}`);
    const { downtime_ms = null, bytes_sent = 0 } = status?.receipt ?? {};
    const seconds = (endedMs - begunMs) / 1000;
    t.comment(`  ${seconds.toFixed(1)} s, ${String(bytes_sent)} bytes, down for ${String(downtime_ms)} ms`);
  }

  /** The guest is off in the end, and its disk has all that it said. */
  async end(t: Test, guest: QemuGuest): Promise<void> {
    const { instances } = this.#skerry;
    const host = await this.hostOf(guest);
    // While it shuts down, what it writes need not come to its disk any more.
    const lives = guest.consoles.lives.map((life) => ({ ...life }));
    await instances.stop(guest.id);
    await instances.waitFor(guest.id, { phases: ["stopped"], timeoutMs: settleLimitMs });
    const disk = machineFiles(this.world.folderOf(host, guest.id)).rootDisk;
    t.same(await findDiskDamage(disk, lives), [], "its disk has what it wrote");
    const { samples } = guest.qemus;
    const { ticks } = guest.consoles;
    const figures = { looks: samples, ticks, lives: lives.length, checksums: guest.ear.checks };
    t.comment(JSON.stringify(figures));
    await instances.delete(guest.id);
    await instances.waitFor(guest.id, { timeoutMs: settleLimitMs });
  }

  async #settled(guest: QemuGuest, id: string): Promise<Migration> {
    const { instances } = this.#skerry;
    try {
      const ended = async () => Boolean((await this.world.migration(id)).status?.ended_at);
      await until(ended, settleLimitMs, pollMs);
      await until(async () => (await instances.get(guest.id)).phase === "running", settleLimitMs, pollMs);
      await untilQuiet(this.#database, settleLimitMs);
    } catch (cause) {
      const told = [await this.world.migration(id), await instances.get(guest.id)];
      throw new Error(`it does not come to rest: ${JSON.stringify(told)}`, { cause });
    }
    return await this.world.migration(id);
  }

  async #judge(
    t: Test,
    guest: QemuGuest,
    result: {
      readonly at: PointName;
      readonly name: string;
      readonly fate: Fate;
      readonly scene: Scene;
      readonly migration: Migration;
      readonly before: Noted;
    },
  ): Promise<string> {
    const { at, name, fate, scene, before } = result;
    const { phase, status } = result.migration;
    const reason = status?.error?.reason ?? "";
    const moved = Boolean(status?.committed_at);
    const where = moved ? scene.to : scene.from;
    const other = moved ? scene.from : scene.to;
    const { qemus } = guest;
    const { lives, gaps, ...noted } = guest.since(before);
    const actual = {
      ...noted,
      // A console on a full disk lacks lines; that none is missing on the guest's own disk is seen in the end.
      gaps: strikes[name]?.needsDisk ? [] : gaps,
      running: await qemus.runningSoon(),
      owner: await this.hostOf(guest),
      fate: fateOf(fate, moved, lives),
      left: await this.#findDebris(guest.id, other),
      machines: (await listMachines(this.world.cloud)).filter(({ id }) => id === guest.id).length,
      reserved: await this.#hostsIn("reservation", guest.id),
      incarnations: await this.#hostsIn("incarnation", guest.id),
      said: phase === "complete" ? reason === "" : /^[A-Z_]+$/.test(reason) && reason !== "INTERNAL",
    };
    const wanted = {
      ...{ twice: [], gaps: [], damage: [], running: [where], owner: where, fate, left: [] },
      ...{ machines: 1, reserved: [where], incarnations: [where], said: true },
    };
    const outcome = `${phase}${reason ? ` ${reason}` : ""}`;
    t.same(actual, wanted, `${at}: ${name}: ${outcome}`);
    return outcome;
  }

  /** What a host has of a machine that is not its own, but for disks that are kept for a move back. */
  async #findDebris(id: string, host: string): Promise<string[]> {
    const processes = await findProcessesOf(this.world.folderOf(host, id));
    const files = await readdir(this.world.folderOf(host, id)).catch(() => []); // best of all there is no folder
    const left = files.filter((file) => !/^kept-.*\.qcow2$/.test(file));
    return [...processes.map(({ commandLine }) => commandLine), ...left];
  }

  async #hostsIn(table: "reservation" | "incarnation", id: string): Promise<string[]> {
    const rows = await this.#database.query<{ host_id: string }>(
      `select host_id from ${table} where resource_id = $1`,
      [id],
    );
    return rows.map(({ host_id }) => this.#hostNames.get(host_id) ?? host_id);
  }
}

/** What became of the guest, as wanted when it is one of the ways that are. */
function fateOf(wanted: Fate, moved: boolean, lives: number): Fate {
  const fate = lives > 0 ? "ends" : moved ? "moves" : "stays";
  if (wanted === "survives" && lives <= 1) return wanted;
  return wanted === "either" && fate !== "ends" ? wanted : fate;
}

/** Two hosts with real QEMUs, guests that move between them, and judgement of what became of a move. */
import { readdir } from "node:fs/promises";
import type { Test } from "tap";
import type { Database } from "#cp/store/database.ts";
import type { Skerry } from "#sdk/client.ts";
import type { Migration } from "#sdk/kinds/generated.ts";
import { machineFiles } from "#agent/drivers/hypervisor/files.ts";
import { MoveObserver } from "#test/support/move-observer.ts";
import type { Teardown } from "#test/support/postgres.ts";
import { findProcessesOf } from "#test/support/processes.ts";
import { QemuObserver } from "#test/support/qemu-observer.ts";
import { until } from "#test/support/until.ts";
import { installCommitHolds } from "./commit-hold.ts";
import { clientOf, listMachines, MiB, openDatabase, untilQuiet } from "./faults-world.ts";
import { MigrationCloud } from "./migration-cloud.ts";
import { points, strikes, type Point, type PointName, type Scene } from "./qemu-strikes.ts";
import { type Areas, findDiskDamage, GuestEar, vouchingScript } from "./vouching-guest.ts";

export type Fate = "moves" | "stays" | "either" | "ends";

const settleLimitMs = 90_000;
/** Slow enough that each phase can be met. */
const bandwidth_limit = 48 * MiB;
const pollMs = 20;
/** What is on a console stays there: to look closely would only take from the guests. */
const lookMs = 20;
const fewAreas = { inMemory: 4, onDisk: 1, numbers: 20_000 };

export class QemuGuest implements AsyncDisposable {
  readonly id: string;
  readonly ear: GuestEar;
  readonly consoles: MoveObserver;
  readonly qemus: QemuObserver;
  readonly #areas: Areas;

  constructor(id: string, folders: Readonly<Record<string, string>>, areas: Areas) {
    this.id = id;
    this.#areas = areas;
    this.ear = new GuestEar(areas);
    this.consoles = new MoveObserver(folders, lookMs, (line) => this.ear.hear(line));
    this.qemus = new QemuObserver(folders);
  }

  /** It counts on, and has looked at every area of its memory and its disk since. */
  async vouches(): Promise<void> {
    const { ticks } = this.consoles;
    const { inMemory, onDisk } = this.#areas;
    // A round that was under way may have looked at some before.
    const checks = this.ear.checks + 2 * (inMemory + onDisk);
    await until(() => this.consoles.ticks > ticks + 3 && this.ear.checks >= checks, settleLimitMs, pollMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.consoles[Symbol.dispose]();
    await this.qemus[Symbol.asyncDispose]();
  }
}

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

  static async set(t: Teardown, seed: number): Promise<QemuStage> {
    const world = await MigrationCloud.start(t, {}, "qemu");
    await installCommitHolds(world.databaseUrl);
    const skerry = clientOf(world.cloud);
    const names = new Map<string, string>();
    for await (const { id, name } of skerry.hosts.list()) names.set(id, name);
    return new QemuStage(world, seed, openDatabase(t, world.cloud), skerry, names);
  }

  async boot(name: string, areas: Omit<Areas, "seed"> = fewAreas): Promise<QemuGuest> {
    const given = { ...areas, seed: this.#seed };
    const { id } = await this.#skerry.instances.create({
      name,
      spec: {
        image: "micro",
        memory_bytes: 128 * MiB,
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
    const livesBefore = guest.consoles.lives.length;
    const marks: string[] = [];
    const mark = (what: string) => marks.push(`${what} ${((performance.now() - begunMs) / 1000).toFixed(1)}`);
    await point.arm?.(scene);
    scene.migration = await world.migrate(guest.id, { bandwidth_limit });
    await until(() => point.isReached(scene), settleLimitMs, 5);
    mark("reached");
    await point.hold?.(scene);
    await strike.strike(scene);
    const released = point.release(scene);
    await strike.mend?.(scene);
    await released;
    mark("mended");
    await world.cloud.untilHosts("online");
    mark("online");
    const migration = await this.#settled(guest, scene.migration);
    mark("settled");
    await guest.vouches();
    mark("vouched");
    const lives = guest.consoles.lives.length - livesBefore;
    const outcome = await this.#judge(t, guest, { at, name, fate, scene, migration, lives });
    mark("judged");
    t.comment(`  ${outcome}: seconds to ${marks.join(", ")}`);
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
    const ended = async () => Boolean((await this.world.migration(id)).status?.ended_at);
    await until(ended, settleLimitMs, pollMs);
    const { instances } = this.#skerry;
    await until(async () => (await instances.get(guest.id)).phase === "running", settleLimitMs, pollMs);
    await untilQuiet(this.#database, settleLimitMs);
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
      readonly lives: number;
    },
  ): Promise<string> {
    const { at, name, fate, scene, lives } = result;
    const { phase, status } = result.migration;
    const reason = status?.error?.reason ?? "";
    const moved = Boolean(status?.committed_at);
    const where = moved ? scene.to : scene.from;
    const other = moved ? scene.from : scene.to;
    const { consoles, qemus, ear } = guest;
    const actual = {
      twice: [...qemus.seen, ...consoles.seen],
      // A guest that is killed between counting and printing leaves one.
      gaps: consoles.gaps.slice(consoles.lives.length - 1),
      damage: ear.damage,
      running: await qemus.running(),
      owner: await this.hostOf(guest),
      fate: lives > 0 ? "ends" : fate === "either" ? "either" : moved ? "moves" : "stays",
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

  /** Processes, sockets and records of a machine on a host that does not own it. */
  async #findDebris(id: string, host: string): Promise<string[]> {
    const processes = await findProcessesOf(this.world.folderOf(host, id));
    const files = await readdir(this.world.folderOf(host, id)).catch(() => []); // best of all there is no folder
    return [...processes.map(({ commandLine }) => commandLine), ...files];
  }

  async #hostsIn(table: "reservation" | "incarnation", id: string): Promise<string[]> {
    const rows = await this.#database.query<{ host_id: string }>(
      `select host_id from ${table} where resource_id = $1`,
      [id],
    );
    return rows.map(({ host_id }) => this.#hostNames.get(host_id) ?? host_id);
  }
}

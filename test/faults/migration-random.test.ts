/**
 * Migrations in a row on real processes, each struck by one fault at one point of its way: every pair of a point and a
 * fault once, in an order that the seed decides, as many as the time allows. SKERRY_FAULTS=all tries every pair,
 * SKERRY_ONLY names a part of that, such as `committed:`.
 * Whatever happens, somebody who watches both hosts from outside never sees two copies nor an old one; after the
 * fault is mended exactly one runs, nothing is left over, and the migration tells what became of it.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import type { FakeCall, FakeKnobs } from "#agent/drivers/fake/knobs.ts";
import { sleep } from "#kernel/retry.ts";
import type { Migration } from "#sdk/kinds/generated.ts";
import { MoveObserver } from "#test/support/move-observer.ts";
import { until } from "#test/support/until.ts";
import { clientOf, listMachines, openDatabase, seededRandom, smallSpec, untilQuiet } from "./faults-world.ts";
import { keepAliveMs, MigrationCloud } from "./migration-cloud.ts";

const seed = Number(process.env["SKERRY_SEED"] ?? Date.now() % 1_000_000);
const all = process.env["SKERRY_FAULTS"] === "all";
t.comment(`seed ${String(seed)}: SKERRY_SEED repeats it`);
const random = seededRandom(seed);
if (all) t.setTimeout(3_600_000);

/** Of the strikes, not counting the start of the cloud. */
const timeMs = all ? Infinity : 10_000;
const settleLimitMs = 90_000;
const lateReportMs = 10_000;
const openPhases = ["preparing", "disk-copy", "pre-copy", "switchover", "post-copy"];

const habits = { tickMs: 5, dirtyPages: 3, memoryPages: 192, diskPages: 96, postCopy: true };
const world = await MigrationCloud.start(t, habits);
const { cloud } = world;
const database = openDatabase(t, cloud);
const { instances, hosts } = clientOf(cloud);
const nameOf = new Map<string, string>();
for await (const { id, name } of hosts.list()) nameOf.set(id, name);

interface Ends {
  readonly from: string;
  readonly to: string;
  readonly migration: string;
}

/** A point of the way at which a move is held until the fault has struck. */
interface Point {
  readonly name: string;
  readonly holds: "from" | "to";
  readonly call: FakeCall;
  readonly reached: (migration: Migration) => boolean;
  /** What the move is asked to be, and what makes it so. */
  readonly how?: object;
  readonly knobs?: Partial<FakeKnobs>;
  /** With these the move goes on until the guest runs at the target: that is the point. */
  readonly following?: Partial<FakeKnobs>;
}

const inPhase = (phase: string) => (migration: Migration) => migration.phase === phase;
const points: readonly Point[] = [
  { name: "preparing", holds: "to", call: "receive", reached: ({ status }) => Boolean(status?.target) },
  { name: "disk-copy", holds: "from", call: "disk-copy", reached: inPhase("disk-copy") },
  { name: "pre-copy", holds: "from", call: "pre-copy", reached: inPhase("pre-copy") },
  { name: "switchover", holds: "from", call: "switchover", reached: inPhase("switchover") },
  { name: "committed", holds: "to", call: "ensure", reached: ({ status }) => Boolean(status?.committed_at) },
  { name: "complete", holds: "from", call: "remove", reached: inPhase("complete") },
  {
    ...{ name: "post-copy", holds: "from", call: "post-copy", reached: inPhase("post-copy") },
    how: { type: "postcopy", max_downtime_ms: 1 },
    knobs: { pagesPerSecond: 500 },
    following: { pagesPerSecond: 60 },
  },
];

/** What strikes. `strike` returns when it has had its effect, `mend` makes all good again. */
interface Blow {
  readonly name: string;
  readonly strike: (ends: Ends, point: Point) => Promise<void>;
  readonly mend?: (ends: Ends) => Promise<void>;
  /** Guests that it may kill in the middle of a tick, and guests that it ends. */
  readonly kills?: true;
  readonly ends?: true;
}

const agentOf = (side: "from" | "to", ends: Ends) => world.agent(ends[side]).program;
const sides = ["from", "to"] as const;
/** Longer than a silent connection is believed in. */
const longMs = 2.5 * keepAliveMs;

const blows: readonly Blow[] = [
  ...sides.flatMap((side): Blow[] => [
    {
      name: `kill -9 of the agent it moves ${side}`,
      kills: true,
      strike: (ends) => agentOf(side, ends).kill(),
      mend: (ends) => agentOf(side, ends).start(),
    },
    {
      name: `restart of the agent it moves ${side}`,
      kills: true,
      strike: (ends) => agentOf(side, ends).stop(),
      mend: (ends) => agentOf(side, ends).start(),
    },
    {
      name: `the agent it moves ${side} hangs until it counts as gone`,
      async strike(ends) {
        agentOf(side, ends).freeze(true);
        await cloud.untilHosts("offline", [ends[side]]);
      },
      mend: async (ends) => agentOf(side, ends).freeze(false),
    },
    {
      name: `the machine it moves ${side} dies`,
      ends: true,
      strike: (ends) => world.turn(ends[side], { crash: ["*"] }),
    },
  ]),
  {
    name: "kill -9 of the control plane",
    strike: () => cloud.controlPlane.kill(),
    mend: () => cloud.controlPlane.start(),
  },
  {
    name: "the control plane hangs until its hosts give it up",
    async strike() {
      cloud.controlPlane.freeze(true);
      await sleep(longMs);
    },
    mend: async () => cloud.controlPlane.freeze(false),
  },
  { name: "kill -9 of PostgreSQL", strike: () => world.killPostgres(), mend: () => world.restartPostgres() },
  {
    name: "PostgreSQL hangs",
    async strike() {
      await world.freezePostgres(true);
      await sleep(longMs);
    },
    mend: () => world.freezePostgres(false),
  },
  { name: "the way between the agents is cut", strike: async ({ from }) => world.ways.get(from)?.cut() },
  {
    name: "the way between the agents stalls",
    async strike({ from }) {
      world.ways.get(from)?.stall();
      await sleep(longMs);
    },
    mend: async ({ from }) => world.ways.get(from)?.resume(),
  },
  {
    name: "a bit turns on the way",
    strike: async ({ from }) => world.ways.get(from)?.damage(),
    // Where nothing passed any more, the next to come by would be this test itself.
    mend: async ({ from }) => world.ways.get(from)?.damage(false),
  },
  {
    name: "the agents cannot reach each other any more",
    // For the rest of the move: what is left of it goes through the control plane.
    strike: async ({ from }) => world.ways.get(from)?.refuse(),
  },
  { name: "the way to the control plane is cut", strike: async () => world.gateway.cut() },
  {
    name: "the way to the control plane stalls",
    async strike() {
      world.gateway.stall();
      await cloud.untilHosts("offline");
    },
    mend: async () => world.gateway.resume(),
  },
  {
    name: "its owner calls it off",
    async strike({ migration }) {
      await world.ask("POST", `/skerry/v1/migrations/${migration}/cancel`, {});
    },
  },
  ...(["before", "after"] as const).map((when): Blow => ({
    name: `the disk is full ${when} the step`,
    async strike(ends, { holds, call }) {
      const failures = [{ call, when, times: 1, code: "exhausted" as const, reason: "DISK_FULL" }];
      await world.turn(ends[holds], { failures });
    },
  })),
];

/** One instance and what is seen of it. */
class Guest implements Disposable {
  readonly id: string;
  readonly observer: MoveObserver;
  kills = 0;
  ends = 0;

  private constructor(id: string) {
    this.id = id;
    this.observer = new MoveObserver(world.foldersOf(id));
  }

  static async boot(name: string): Promise<Guest> {
    const { id } = await instances.create({ name, spec: { ...smallSpec, restart_policy: "always" } });
    const guest = new Guest(id);
    await instances.waitFor(id, { phases: ["running"], timeoutMs: settleLimitMs });
    await guest.counts();
    return guest;
  }

  async host(): Promise<string> {
    return nameOf.get((await instances.get(this.id)).status?.host_id ?? "") ?? "";
  }

  async counts(): Promise<void> {
    const before = this.observer.ticks;
    await until(() => this.observer.ticks > before + 3, settleLimitMs);
  }

  /** The end of it: what it wrote is on its disk, and then nothing is left of it anywhere. */
  async end(t: Test): Promise<void> {
    const host = await this.host();
    await instances.stop(this.id);
    await instances.waitFor(this.id, { phases: ["stopped"], timeoutMs: settleLimitMs });
    this.observer.sample();
    t.same(this.observer.running(), [], "it is off");
    const disk = join(world.folderOf(host, this.id), "disk.bin");
    t.same(this.observer.findLostWrites(disk), [], "what it wrote is on its disk");
    const { samples, ticks, gaps } = this.observer;
    t.comment(
      `${String(samples)} looks, ${String(ticks)} ticks, ${String(gaps.length)} counted and not printed`,
    );
    await instances.delete(this.id);
    await instances.waitFor(this.id, { timeoutMs: settleLimitMs });
  }

  [Symbol.dispose](): void {
    this.observer[Symbol.dispose]();
  }
}

/** What a host has of a machine that is not its own: at most a disk that is kept for a move back. */
async function findDebris(id: string, owner: string): Promise<string[]> {
  const found: string[] = [];
  for (const [name, folder] of Object.entries(world.foldersOf(id))) {
    if (name === owner) continue;
    const files = await readdir(folder).catch(() => []); // no folder at all is what is hoped for
    found.push(...files.filter((file) => !["stale.bin", "console.log"].includes(file)));
  }
  return found;
}

async function tableRows(sql: string, id: string): Promise<string[]> {
  const rows = await database.query<{ host_id: string }>(sql, [id]);
  return rows.map(({ host_id }) => nameOf.get(host_id) ?? host_id);
}

/** Strikes one move of the guest, mends everything, and looks at what is there then. */
async function tryOne(t: Test, guest: Guest, point: Point, blow: Blow): Promise<string> {
  const from = await guest.host();
  const to = from === "site-1" ? "site-2" : "site-1";
  for (const [side, name] of [
    ["from", from],
    ["to", to],
  ] as const) {
    await world.turn(name, { ...point.knobs, ...(side === point.holds && { hold: [point.call] }) });
  }
  const migration = await world.migrate(guest.id, point.how);
  const ends = { from, to, migration };
  let now = await world.migration(migration);
  const isFar = async () => {
    now = await world.migration(migration);
    // On a busy machine a guest may write so little that nothing has to follow it.
    return point.reached(now) || (point.following !== undefined && now.phase === "complete");
  };
  await until(isFar, settleLimitMs).catch((cause: unknown) => {
    const told = JSON.stringify(now);
    throw new Error(`${titleOf(point, blow)}: it does not come so far: ${told}`, { cause });
  });
  if (!point.reached(now)) {
    for (const name of [from, to]) await world.turn(name);
    await untilQuiet(database, settleLimitMs);
    return "complete before anything struck";
  }
  if (point.following) {
    await world.turn(from, point.following);
    await until(() => guest.observer.running().join() === to, settleLimitMs);
  }
  if (blow.kills) guest.kills++;
  if (blow.ends) guest.ends++;
  await blow.strike(ends, point);
  // The files of the knobs are read at once: the strike and the release may come in one.
  if (!blow.name.startsWith("the disk is full"))
    for (const name of [from, to]) await world.turn(name, point.knobs);
  await blow.mend?.(ends);
  await cloud.untilHosts("online");

  await until(async () => !openPhases.includes((await world.migration(migration)).phase), settleLimitMs);
  for (const name of [from, to]) {
    await world.turn(name);
    world.ways.get(name)?.refuse(false);
  }
  const runs = async () => (await instances.get(guest.id)).phase === "running";
  await until(runs, settleLimitMs).catch(async (cause: unknown) => {
    const { phase, status } = await instances.get(guest.id);
    const told = JSON.stringify({ phase, status });
    throw new Error(`${titleOf(point, blow)}: it does not run afterwards: ${told}`, { cause });
  });
  await untilQuiet(database, settleLimitMs);
  await guest.counts();
  return judge(t, guest, blow, ends);
}

async function judge(t: Test, guest: Guest, blow: Blow, { from, to, migration }: Ends): Promise<string> {
  const told = await world.migration(migration);
  const { phase, status } = told;
  const owner = await guest.host();
  const moved = Boolean(status?.committed_at);
  const reason = status?.error?.reason ?? "";
  // It began anew, from its disk.
  if (reason === "GUEST_LOST" && !blow.ends) guest.ends++;
  const { observer } = guest;
  const listIncarnations = () =>
    tableRows("select host_id from incarnation where resource_id = $1", guest.id);
  // A report that was under way while a copy was removed brings its record back for a moment; else it is judged below.
  const isAlone = async () => (await listIncarnations()).length === 1;
  await until(isAlone, lateReportMs).catch(() => undefined);
  const actual = {
    seen: observer.seen,
    gaps: observer.gaps.length <= guest.kills,
    // Booted anew without need, what it had in memory would be lost.
    livesTooMany: Math.max(0, observer.lives.length - guest.ends - 1),
    running: observer.running(),
    owner,
    debris: await findDebris(guest.id, owner),
    machines: (await listMachines(cloud)).filter(({ id }) => id === guest.id).length,
    reserved: await tableRows("select host_id from reservation where resource_id = $1", guest.id),
    incarnations: await listIncarnations(),
    ended: Boolean(status?.ended_at),
    said: phase === "complete" ? reason === "" : /^[A-Z_]+$/.test(reason) && reason !== "INTERNAL",
    honest: moved || phase !== "complete",
  };
  const where = moved ? to : from;
  const wanted = {
    ...{ seen: [], gaps: true, livesTooMany: 0, running: [where], owner: where, debris: [], machines: 1 },
    ...{ reserved: [where], incarnations: [where], ended: true, said: true, honest: true },
  };
  const outcome = `${phase}${reason ? ` ${reason}` : ""}`;
  t.same(actual, wanted, `${blow.name}: ${outcome}`);
  return outcome;
}

/** Tried at every run, in this order, before those that the seed decides on; they come to nothing but a move. */
const first = [
  "preparing: the agents cannot reach each other any more",
  "post-copy: the way between the agents is cut",
];
const titleOf = (point: Point, blow: Blow) => `${point.name}: ${blow.name}`;
const rankOf = (point: Point, blow: Blow) => {
  const rank = first.indexOf(titleOf(point, blow));
  return rank < 0 ? random() : rank - first.length;
};
const only = process.env["SKERRY_ONLY"] ?? "";
const pairs = points
  .flatMap((point) => blows.map((blow) => ({ point, blow, place: rankOf(point, blow) })))
  .filter(({ point, blow }) => titleOf(point, blow).includes(only))
  .sort((a, b) => a.place - b.place);
const startedMs = performance.now();
let tried = 0;
/** A machine that dies too often is not started again: every few strikes there is a new guest. */
const strikesOfGuest = 8;
for (let at = 0; at < pairs.length && performance.now() - startedMs < timeMs;) {
  await t.test(`a guest, from pair ${String(at)} on`, async (t) => {
    using guest = await Guest.boot(`guest-${String(at)}`);
    for (const { point, blow } of pairs.slice(at, at + strikesOfGuest)) {
      at++;
      if (performance.now() - startedMs > timeMs) break;
      const beganMs = performance.now();
      t.comment(titleOf(point, blow));
      const outcome = await tryOne(t, guest, point, blow);
      if (first.includes(titleOf(point, blow))) t.equal(outcome, "complete");
      t.comment(`  ${outcome}, ${((performance.now() - beganMs) / 1000).toFixed(1)} s`);
      tried++;
    }
    await guest.end(t);
  });
}
t.comment(`${String(tried)} of ${String(pairs.length)} pairs`);

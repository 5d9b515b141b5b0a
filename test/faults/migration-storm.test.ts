/**
 * Thousands of faults in an order that a seed decides, on many migrations at once, in one process: real engines on a
 * real database, real agents with fake machines that outlive them. Agents and replicas are killed and begun anew,
 * commands, answers and reports are lost, late and doubled, channels are cut, stalled and spoilt, leases and
 * connections to the database go, disks fill up, owners change their minds. Somebody who watches every machine never
 * sees two running copies or an old one; when a move's storm is over, the guest runs in the one place that the record
 * names, with its memory and its disk; and in the end nothing is left over.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import t from "tap";
import type { Reply } from "#cp/app/resource-api.ts";
import type { Resource } from "#cp/resources/definition.ts";
import { instance } from "#cp/resources/instance/instance.resource.ts";
import { migration } from "#cp/resources/migration/migration.resource.ts";
import { ReportRequestSchema } from "#gen/skerry/control/v1/control_pb.js";
import { sleep } from "#kernel/retry.ts";
import { createInstance, quietly, testCtx, World, type Replica } from "#test/support/engine-world.ts";
import { MoveObserver } from "#test/support/move-observer.ts";
import { MovingHost } from "#test/support/moving-host.ts";
import { PipedMoves } from "#test/support/piped-moves.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { until } from "#test/support/until.ts";
import { seededRandom } from "./faults-world.ts";
import { blowsOf, unless } from "./storm-blows.ts";
import { Register } from "./storm-register.ts";

const seed = Number(process.env["SKERRY_SEED"] ?? Date.now() % 1_000_000);
const timeMs = process.env["SKERRY_FAULTS"] === "all" ? 300_000 : 18_000;
t.setTimeout(timeMs + 600_000);
t.comment(`seed ${String(seed)}: SKERRY_SEED repeats it`);

const guests = 16;
const hosts = 5;
/** Between two looks at one of them, for which this process has to do everything else as well. */
const lookMs = 20;
/** Nothing may take longer, on a machine that has ten times as much to do either. */
const settleLimitMs = 180_000;
const knobs = { tickMs: 10, dirtyPages: 2, memoryPages: 48, diskPages: 32, pagesPerSecond: 8000 };
const longestLateMs = 80;
const clockSpeed = 30;
/** Of one move: blows, and time from one to the next. */
const mostBlows = 48;
const longestPauseMs = 10;

const tally = new Map<string, number>();
const count = (what: string, times = 1) => {
  if (times > 0) tally.set(what, (tally.get(what) ?? 0) + times);
};
let faults = 0;
const countFault = (what: string, times = 1) => {
  faults += times;
  count(what, times);
};

const weather = seededRandom(seed);
const moves = new PipedMoves();
const startHost = (id: string) =>
  MovingHost.start(id, { moves, knobs, onMishap: countFault, lateMs: () => weather() * longestLateMs });
const world = await World.startWith(await withDatabase(t), startHost, { hosts, cpus: 64 });
const register = new Register(world.database);
/** Takes the requests; the others do the work, and die. */
const front = await world.replica({ url: "http://front", works: false });
let working: Replica | undefined;
t.teardown(async () => {
  await register[Symbol.asyncDispose]();
  await front.stop();
  await world.stop();
});

const hostOf = (id: string | null | undefined) => world.hosts.find((host) => host.id === id);

/** As an agent does that has a new connection. */
async function tellAll(host: MovingHost, replica = working): Promise<void> {
  if (!replica || !host.connected) return;
  const report = create(ReportRequestSchema, { full: true, machines: [...host.manager.list()] });
  await replica.engine.reports.report(host.id, report).catch(unless("unavailable")); // dead already
}

const blows = Object.entries(
  blowsOf({ world, moves, front, killReplica: () => working?.doom(), tellAll }),
).flatMap(([name, { weight, strike }]) => Array.from({ length: weight }, () => ({ name, strike })));

/** Leases, and waits before another try, pass so many times as fast: what holds for half a minute is a storm by itself. */
async function hurryClocks(over: AbortSignal): Promise<void> {
  const stepMs = 50;
  while (!over.aborted) {
    await world.database
      .query(
        `with due as (select key from work where lease_until > now() or run_at > now() for update skip locked)
         update work w set lease_until = lease_until - $1 * interval '1 millisecond',
           run_at = case when run_at > now() then greatest(now(), run_at - $1 * interval '1 millisecond') else run_at end
         from due where w.key = due.key`,
        [stepMs * (clockSpeed - 1)],
      )
      .catch(unless("unavailable"));
    await sleep(stepMs);
  }
}

/** Replicas, one after the other; each is killed sooner or later. */
async function reign(over: AbortSignal): Promise<void> {
  const ended = new Promise<void>((resolve) =>
    over.addEventListener("abort", () => resolve(), { once: true }),
  );
  const stopping: Promise<void>[] = [];
  while (!over.aborted) {
    const replica = await world.replica({ diesAfterCommits: Infinity }).catch(unless("unavailable"));
    if (!replica) continue;
    working = replica;
    for (const host of world.hosts) await tellAll(host);
    await Promise.race([replica.died, ended]);
    if (!over.aborted) countFault("replica killed");
    working = undefined;
    stopping.push(replica.stop());
  }
  await Promise.all(stopping);
}

async function askForMove(id: string): Promise<string> {
  let made = "";
  const respond = (resource: Resource): Reply => {
    made = resource.id;
    return { status: 201, headers: {}, body: null };
  };
  const body = { name: "move", spec: { instance: id } };
  const lost = unless("conflict", "unavailable");
  await until(async () => {
    await register.until(id, ({ phase }) => phase === "running", settleLimitMs);
    const asked = front.resources.create(testCtx(), migration, body, { respond });
    // What was answered before its transaction was lost does not exist.
    return await asked.then(
      () => true,
      (fault: unknown) => {
        lost(fault);
        return false;
      },
    );
  }, settleLimitMs);
  return made;
}

interface Guest {
  readonly id: string;
  readonly observer: MoveObserver;
  readonly random: () => number;
}

/** One move in its storm. */
async function moveOnce({ id, observer, random }: Guest): Promise<void> {
  const asked = await askForMove(id);
  const begun = await register.until(asked, ({ ended, target }) => ended || target !== null, settleLimitMs);
  const [from, to] = [hostOf(begun.source), hostOf(begun.target)];
  const done = register.until(asked, ({ ended }) => ended, settleLimitMs);
  done.catch(() => undefined); // waited for below
  let isOver = false;
  const over = done.then(() => (isOver = true));
  over.catch(() => undefined);
  const storm: Promise<void>[] = [];
  for (let left = Math.floor(random() * mostBlows); from && to && left > 0 && !isOver; left--) {
    const { name, strike } = blows[Math.floor(random() * blows.length)]!;
    const struck = Promise.resolve(strike({ instance: id, migration: asked, from, to }, random));
    const counted = struck.then((times) => countFault(name, times));
    counted.catch(() => undefined); // told when all are mended
    storm.push(counted);
    await Promise.race([over, sleep(random() * longestPauseMs)]);
  }
  await Promise.all(storm);
  const { phase, reason, committed, source, target } = await done;
  count(`= ${phase} ${reason ?? ""}`.trim());
  const said = phase === "complete" ? committed && !reason : /^[A-Z_]+$/.test(reason ?? "");
  if (!said || reason === "INTERNAL") observer.seen.push(`${asked} says ${phase} ${String(reason)}`);
  const owner = committed ? target : source;
  await until(() => observer.running().join() === owner, settleLimitMs);
  const before = observer.ticks;
  await until(() => observer.ticks > before + 1, settleLimitMs);
  const memory = join(hostOf(owner)?.folderOf(id) ?? "", "memory.bin");
  observer.seen.push(...observer.findWrongMemory(memory, knobs.dirtyPages));
}

/** Nobody runs what the record does not let him: a destination before the commit, a source after it handed over. */
function watchRights(life: readonly Guest[]): NodeJS.Timeout {
  const look = ({ id, observer }: Guest) => {
    for (const host of observer.running()) {
      if (hostOf(host)?.mayRun(id) === false) observer.seen.push(`${host} runs it without the right to`);
    }
  };
  return setInterval(() => life.forEach(look), lookMs);
}

/** What hosts have of a machine that is not their own: at most a disk that is kept for a move back. */
async function findDebris(id: string, owner: MovingHost | undefined): Promise<string[]> {
  const found: string[] = [];
  for (const host of world.hosts.filter((one) => one !== owner)) {
    const files = await readdir(host.folderOf(id)).catch(() => []); // best of all there is no folder
    found.push(...files.filter((file) => !["stale.bin", "console.log"].includes(file)));
  }
  return found;
}

await t.test("moves in a storm of faults", async (t) => {
  const first = await world.replica();
  const ids = await Promise.all(
    Array.from({ length: guests }, (_, n) => createInstance(first.resources, {}, `guest-${String(n)}`)),
  );
  for (const id of ids) await world.untilPhase(id, "running", settleLimitMs);
  await first.stop();
  const life = ids.map((id, n): Guest => {
    const folders = world.hosts.map((host) => [host.id, host.folderOf(id)] as const);
    const observer = new MoveObserver(Object.fromEntries(folders), lookMs);
    return { id, observer, random: seededRandom(seed + 1 + n) };
  });

  const watching = watchRights(life);
  const over = new AbortController();
  const reigning = Promise.all([reign(over.signal), hurryClocks(over.signal)]);
  const stopAt = performance.now() + timeMs;
  let moved = 0;
  const results = await Promise.allSettled(
    life.map(async (guest) => {
      for (; performance.now() < stopAt; moved++) await moveOnce(guest);
    }),
  );
  over.abort();
  await reigning;
  for (const host of world.hosts) host.calm();
  t.comment(`${String(faults)} faults on ${String(moved)} moves of ${String(guests)} guests`);
  for (const [what, times] of [...tally].sort()) t.comment(`${String(times)} x ${what}`);
  for (const { reason } of results.filter((one) => one.status === "rejected")) t.error(reason);

  const last = await world.replica();
  for (const host of world.hosts) await tellAll(host, last);
  for (const { id, observer } of life) {
    await last.resources.invoke(testCtx(), instance, id, "stop", {}, quietly);
    await world.untilPhase(id, "stopped", settleLimitMs);
    observer.sample();
    const { seen, gaps, lives } = observer;
    const owner = hostOf((await world.find(id))?.hostId);
    const lost = observer.findLostWrites(join(owner?.folderOf(id) ?? "", "disk.bin"));
    await until(async () => (await findDebris(id, owner)).length === 0, 20_000).catch(() => undefined); // told below
    const debris = await findDebris(id, owner);
    const actual = { seen, gaps, lives: lives.length, lost, debris };
    t.strictSame(actual, { seen: [], gaps: [], lives: 1, lost: [], debris: [] }, "one life, without a gap");
    observer[Symbol.dispose]();
  }
  clearInterval(watching);
  t.strictSame(await world.lastingViolations(settleLimitMs), [], "nothing is left over");
  t.equal(moves.open, 0, "no channel is kept");
  t.strictSame(
    world.hosts.flatMap(({ seen }) => seen),
    [],
    "no command took the place of a newer one",
  );
  await last.stop();
});

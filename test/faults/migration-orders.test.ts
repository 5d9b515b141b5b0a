/**
 * Migrations by the hundred in one process: real engines on a real database, real agents with fake machines. Several
 * guests move at once, again and again, while hosts die and come back, connections, answers and bits are lost, owners
 * change their minds, and every replica dies after some of its commits; all in an order that the seed decides. Somebody
 * who watches the hosts' folders never sees two copies or an old one, and in the end nothing is left over.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import t from "tap";
import type { Reply } from "#cp/app/resource-api.ts";
import { resourceColumns, toResource, type ResourceRow } from "#cp/engine/rows.ts";
import { instance } from "#cp/resources/instance/instance.resource.ts";
import { migration, type Migration } from "#cp/resources/migration/migration.resource.ts";
import type { Resource } from "#cp/resources/definition.ts";
import { ReportRequestSchema } from "#gen/skerry/control/v1/control_pb.js";
import { isFault } from "#kernel/fault.ts";
import { sleep } from "#kernel/retry.ts";
import { createInstance, quietly, testCtx, World, type Replica } from "#test/support/engine-world.ts";
import { MoveObserver } from "#test/support/move-observer.ts";
import { MovingHost } from "#test/support/moving-host.ts";
import { PipedMoves } from "#test/support/piped-moves.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { until } from "#test/support/until.ts";
import { seededRandom } from "./faults-world.ts";

const seed = Number(process.env["SKERRY_SEED"] ?? Date.now() % 1_000_000);
const timeMs = process.env["SKERRY_FAULTS"] === "all" ? 300_000 : 25_000;
t.setTimeout(timeMs + 240_000);
t.comment(`seed ${String(seed)}: SKERRY_SEED repeats it`);

const guests = 8;
/** Between two looks at one of them, for which this process has to do everything else as well. */
const lookMs = 10;
const settleLimitMs = 60_000;
const knobs = { tickMs: 5, dirtyPages: 2, memoryPages: 96, diskPages: 64, pagesPerSecond: 4000 };
const mostCommits = 400;
const longestAbsenceMs = 300;

const moves = new PipedMoves();
const world = await World.startWith(
  await withDatabase(t),
  (id): Promise<MovingHost> => MovingHost.start(id, { moves, knobs }),
  { hosts: 3, cpus: 64 },
);
/** Takes the requests; the others do the work, and die. */
const front = await world.replica({ url: "http://front", works: false });
t.teardown(async () => {
  await front.stop();
  await world.stop();
});
const hostOf = (id: string | undefined) => world.hosts.find((host) => host.id === id);
const tally = new Map<string, number>();
const count = (what: string) => tally.set(what, (tally.get(what) ?? 0) + 1);

async function readMigration(id: string): Promise<Migration> {
  const rows = await world.database.query<ResourceRow>(
    `select ${resourceColumns} from resource where id = $1`,
    [id],
  );
  return toResource(rows[0]!) as Migration;
}

interface Move {
  readonly migration: string;
  readonly from: MovingHost;
  readonly to: MovingHost;
}

/** A host dies, and somebody starts its agent again. A second death waits for the first one's end. */
const dying = new Map<MovingHost, Promise<void>>();
function dieAndRevive(host: MovingHost): Promise<void> {
  const done = (dying.get(host) ?? Promise.resolve()).then(async () => {
    await host.kill();
    await host.revive();
    host.connected = true; // tells what it found
  });
  dying.set(host, done);
  return done;
}

async function goAway(host: MovingHost, random: () => number): Promise<void> {
  host.connected = false;
  await sleep(random() * longestAbsenceMs);
  host.connected = true;
}

/** What strikes a move. Each returns when it has been mended. */
const blows: Readonly<Record<string, (move: Move, random: () => number) => Promise<void> | void>> = {
  "source dies": ({ from }) => dieAndRevive(from),
  "target dies": ({ to }) => dieAndRevive(to),
  "both die": async ({ from, to }) => void (await Promise.all([dieAndRevive(from), dieAndRevive(to)])),
  "source away": ({ from }, random) => goAway(from, random),
  "target away": ({ to }, random) => goAway(to, random),
  "answers of the source lost": ({ from }) => void (from.loseReplies = 2),
  "answers of the target lost": ({ to }) => void (to.loseReplies = 2),
  "memory cut": () => void moves.cut("memory"),
  "disk cut": () => void moves.cut("disk:root"),
  "a bit turns": ({ to }) => void (to.damaging = true),
  cancelled: async ({ migration: id }) => {
    const cancel = front.resources.invoke(testCtx(), migration, id, "cancel", {}, quietly);
    await cancel.catch(unless("conflict")); // it was too late: that is an answer too
  },
  "fails before": ({ from }, random) => failAt(from, "before", random),
  "fails after": ({ from }, random) => failAt(from, "after", random),
  nothing: () => undefined,
};

function failAt(host: MovingHost, when: "before" | "after", random: () => number): void {
  const calls = ["disk-copy", "pre-copy", "switchover"] as const;
  const call = calls[Math.floor(random() * calls.length)]!;
  if (!host.connected) return;
  host.driver.set({ failures: [{ call, when, times: 1, code: "exhausted", reason: "DISK_FULL" }] });
}

function unless(code: "conflict" | "unavailable"): (thrown: unknown) => void {
  return (thrown) => {
    if (!isFault(thrown, code)) throw thrown;
  };
}

/** Points of a move's way, as far as its status tells them; a short one may be over before it is seen. */
const pointsOf = ["preparing", "disk-copy", "pre-copy", "switchover", "complete"];

async function askForMove(id: string): Promise<string> {
  let made = "";
  const respond = (resource: Resource): Reply => {
    made = resource.id;
    return { status: 201, headers: {}, body: null };
  };
  await until(async () => {
    const body = { name: "move", spec: { instance: id } };
    await front.resources.create(testCtx(), migration, body, { respond }).catch(unless("conflict"));
    return made !== "";
  }, settleLimitMs);
  return made;
}

/** Waits for a migration to come so far; says where it is when it does not. */
async function untilMigration(id: string, holds: (migration: Migration) => boolean): Promise<Migration> {
  let last: Migration | undefined;
  try {
    await until(async () => holds((last = await readMigration(id))), settleLimitMs);
  } catch (cause) {
    const key = last?.refs["instance"];
    const [work] = await world.database.query("select * from work where key = $1", [key]);
    const steps = await world.database.query(
      "select o.*, s.* from operation o left join operation_step s on s.operation_id = o.id where o.resource_id = $1 order by o.created_at desc limit 6",
      [key],
    );
    const incarnations = await world.database.query("select * from incarnation where resource_id = $1", [
      key,
    ]);
    throw new Error(`stuck: ${JSON.stringify({ last, work, steps, incarnations }, undefined, 1)}`, { cause });
  }
  if (!last) throw new Error(`there is no ${id}`);
  return last;
}

const hasEnded = ({ observed }: Migration) => Boolean(observed?.ended_at);

/** One move with one blow. */
async function moveOnce(id: string, observer: MoveObserver, random: () => number): Promise<void> {
  const names = Object.keys(blows);
  const name = names[Math.floor(random() * names.length)]!;
  const point = Math.floor(random() * pointsOf.length);
  const asked = await askForMove(id);
  const begun = await untilMigration(
    asked,
    (one) => hasEnded(one) || (Boolean(one.observed?.target) && pointsOf.indexOf(one.phase) >= point),
  );
  const [from, to] = [hostOf(begun.observed?.source.host_id), hostOf(begun.observed?.target?.host_id)];
  if (from && to) {
    count(name);
    await blows[name]?.({ migration: asked, from, to }, random);
  }
  const { phase, observed } = await untilMigration(asked, hasEnded);
  count(`= ${phase} ${observed?.error?.reason ?? ""}`.trim());
  const owner = observed?.committed_at ? observed.target?.host_id : observed?.source.host_id;
  await until(() => observer.running().join() === owner, settleLimitMs);
  const before = observer.ticks;
  await until(() => observer.ticks > before + 2, settleLimitMs);
}

/** Replicas, one after the other, each of which dies after some commits. */
async function reign(random: () => number, over: AbortSignal): Promise<void> {
  const ended = new Promise<void>((resolve) =>
    over.addEventListener("abort", () => resolve(), { once: true }),
  );
  while (!over.aborted) {
    const replica = await world.replica({ diesAfterCommits: 1 + Math.floor(random() * mostCommits) });
    await tellAll(replica);
    await Promise.race([replica.died, ended]);
    await replica.stop();
    if (!over.aborted) count("replica dies");
  }
}

/** As agents do that have lost their connection and have another. */
async function tellAll({ engine }: Replica): Promise<void> {
  for (const host of world.hosts.filter(({ connected }) => connected)) {
    const report = create(ReportRequestSchema, { full: true, machines: [...host.manager.list()] });
    await engine.reports.report(host.id, report).catch(unless("unavailable")); // dead already
  }
}

await t.test("moves and faults in the seed's order", async (t) => {
  const first = await world.replica();
  const ids = await Promise.all(
    Array.from({ length: guests }, (_, n) => createInstance(first.resources, {}, `guest-${String(n)}`)),
  );
  for (const id of ids) await world.untilPhase(id, "running", settleLimitMs);
  await first.stop();
  const observers = ids.map((id) => {
    const folders = world.hosts.map((host) => [host.id, host.folderOf(id)] as const);
    return new MoveObserver(Object.fromEntries(folders), lookMs);
  });

  const over = new AbortController();
  const reigning = reign(seededRandom(seed), over.signal);
  const stopAt = performance.now() + timeMs;
  const lives = ids.map(async (id, n) => {
    const random = seededRandom(seed + 1 + n);
    while (performance.now() < stopAt) await moveOnce(id, observers[n]!, random);
  });
  const results = await Promise.allSettled(lives);
  over.abort();
  await reigning;
  for (const [what, times] of [...tally].sort()) t.comment(`${String(times)} x ${what}`);
  for (const { reason } of results.filter((one) => one.status === "rejected")) t.error(reason);

  const last = await world.replica();
  await tellAll(last);
  for (const host of world.hosts) host.loseReplies = 0;
  for (const [n, id] of ids.entries()) {
    const observer = observers[n]!;
    await last.resources.invoke(testCtx(), instance, id, "stop", {}, quietly);
    await world.untilPhase(id, "stopped", settleLimitMs);
    observer.sample();
    const { seen, gaps, lives: boots } = observer;
    t.same({ seen, gaps, boots: boots.length }, { seen: [], gaps: [], boots: 1 }, "one life, without a gap");
    const owner = hostOf((await world.find(id))?.hostId);
    t.same(observer.findLostWrites(join(owner?.folderOf(id) ?? "", "disk.bin")), [], "its disk has it all");
    for (const host of world.hosts.filter((one) => one !== owner)) {
      const debris = async () => {
        const files = await readdir(host.folderOf(id)).catch(() => []); // best of all there is no folder
        return files.filter((file) => !["stale.bin", "console.log"].includes(file));
      };
      await until(async () => (await debris()).length === 0, 20_000).catch(() => undefined); // told by the next line
      t.same(await debris(), [], "no debris");
    }
    observer[Symbol.dispose]();
  }
  t.same(await world.lastingViolations(settleLimitMs), [], "nothing is left over");
  await last.stop();
});

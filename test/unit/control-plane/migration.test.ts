/** A migration's phases, progress, receipt and prediction, as tables. */
import { create } from "@bufbuild/protobuf";
import t from "tap";
import { judge, type Standing } from "#cp/app/drains.ts";
import type { Incarnation } from "#cp/engine/controller.ts";
import { toMoveObservation, type MoveObservation } from "#cp/engine/move.ts";
import { deriveDowntime, deriveMigration, deriveReceipt } from "#cp/resources/migration/migration.derive.ts";
import { moveTypeOf, predictMove } from "#cp/resources/migration/migration.plan.ts";
import {
  migration,
  migrationPhases,
  type Migration,
  type MigrationStatus,
} from "#cp/resources/migration/migration.resource.ts";
import { MovePhase, MoveRole, MoveStatusSchema } from "#gen/skerry/agent/v1/migration_pb.js";
import { Fault } from "#kernel/fault.ts";

const now = new Date("2026-11-21T00:00:00Z");
const site = (host_id: string) => ({ host_id, provider: "p", region: "r" });

const status = (change: Partial<MigrationStatus> = {}): MigrationStatus => ({
  stage: "preparing",
  type: "live",
  source: site("host-a"),
  target: site("host-b"),
  waiting_for: null,
  waiting_since: null,
  progress: null,
  receipt: null,
  error: null,
  started_at: now.toISOString(),
  committed_at: null,
  ended_at: null,
  ...change,
});

const request = (observed: MigrationStatus | undefined): Migration => ({
  id: "mig-1",
  kind: "migration",
  project: "root",
  name: "web",
  labels: {},
  generation: 1,
  observedGeneration: 0,
  desired: migration.spec.parse({ instance: "web" }),
  observed,
  refs: { instance: "vm-1" },
  placement: undefined,
  problem: undefined,
  phase: "preparing",
  hostId: undefined,
  revision: 1,
  schemaVersion: 1,
  owner: "",
  createdAt: now,
  updatedAt: now,
  deletingAt: undefined,
});

const move = (phase: MovePhase, change: Partial<MoveObservation> = {}): MoveObservation => ({
  ...toMoveObservation(
    create(MoveStatusSchema, { migrationId: "mig-1", role: MoveRole.SOURCE, phase, bytesTotal: 1000n }),
  ),
  ...change,
});

const at = (hostId: string, observed: MoveObservation): Incarnation => ({
  hostId,
  seq: 1,
  epoch: 1,
  acceptedGeneration: 1,
  generation: 1,
  state: "running",
  observed: { move: observed },
  connected: true,
  updatedAt: now,
});

t.test("the source's phase is the migration's", async (t) => {
  const committed = now.toISOString();
  const cases: readonly [MovePhase, string, Partial<MigrationStatus>?][] = [
    [MovePhase.PREPARING, "preparing"],
    [MovePhase.DISK_COPY, "disk-copy"],
    [MovePhase.PRE_COPY, "pre-copy"],
    [MovePhase.CONVERGED, "pre-copy"],
    [MovePhase.SWITCHOVER, "switchover"],
    [MovePhase.HANDED_OVER, "switchover"],
    [MovePhase.POST_COPY, "switchover"],
    [MovePhase.POST_COPY, "post-copy", { committed_at: committed }],
    [MovePhase.HANDED_OVER, "post-copy", { committed_at: committed, stage: "post-copy" }],
    [MovePhase.PRE_COPY, "switchover", { committed_at: committed }],
    [MovePhase.FAILED, "pre-copy", { stage: "pre-copy" }],
  ];
  for (const [phase, stage, change] of cases) {
    const derived = deriveMigration(request(status(change)), [at("host-a", move(phase))]);
    t.equal(derived?.stage, stage, `${MovePhase[phase]} ${JSON.stringify(change)}`);
  }
  const source = [at("host-a", move(MovePhase.DISK_COPY))];
  t.equal(deriveMigration(request(undefined), source), undefined, "not before it has begun");
  t.equal(deriveMigration(request(status({ ended_at: committed })), source), undefined, "not after its end");
  const other = at("host-a", move(MovePhase.DISK_COPY, { migration_id: "mig-0" }));
  t.equal(deriveMigration(request(status()), [other]), undefined, "not by another move's progress");
});

t.test("progress", async (t) => {
  const seen = move(MovePhase.PRE_COPY, { bytes_remaining: 500, throughput: 100, bytes_sent: 250 });
  const derived = deriveMigration(request(status()), [at("host-a", seen)]);
  t.match(derived?.progress, {
    bytes_total: 1000,
    bytes_remaining: 500,
    compression_ratio: 0.25,
    estimated_completion_at: "2026-11-21T00:00:05.000Z",
  });
  t.doesNotThrow(() => migration.status.parse(derived), "it is what the API promises");
  const cut = { reason: "MOVE_INTERRUPTED", message: "the connection was lost" };
  const following = status({ committed_at: now.toISOString() });
  const held = deriveMigration(request(following), [at("host-a", move(MovePhase.POST_COPY, cut))]);
  t.equal(held?.waiting_for, cut.message, "what holds a post-copy up is told");
  const late = request(status({ waiting_for: "host-b is away" }));
  t.equal(
    deriveMigration(late, [at("host-a", move(MovePhase.POST_COPY, cut))])?.waiting_for,
    "host-b is away",
  );
});

t.test("the downtime is never less than the hosts measured, never more than was waited", async (t) => {
  const source = move(MovePhase.HANDED_OVER, { stopped_ms: 40, stopped_at_ms: 10_000 });
  const target = (resumed_at_ms: number) => move(MovePhase.HANDED_OVER, { resumed_ms: 5, resumed_at_ms });
  const switched = { handedOverAtMs: 0, ranAtMs: 20 };
  const cases: readonly [string, number, number][] = [
    ["clocks agree", 10_052, 52],
    ["the target's clock is late", 9_000, 45],
    ["the target's clock is early", 99_000, 60],
    ["the target told nothing", 0, 60],
  ];
  for (const [what, resumedAt, expected] of cases) {
    t.equal(deriveDowntime(source, target(resumedAt), switched), expected, what);
  }
  t.equal(deriveReceipt(status({ type: "cold" }), source, undefined, 0, switched).downtime_ms, null);
  t.equal(
    deriveReceipt(status(), source, undefined, 0, undefined).downtime_ms,
    null,
    "it never switched over",
  );
});

t.test("what is off moves cold", async (t) => {
  const { desired } = request(undefined);
  const off = { desired: { power: "off" }, observed: undefined } as never;
  t.equal(moveTypeOf(off, desired), "cold");
  const stopped = { desired: { power: "on" }, observed: { state: "stopped" } } as never;
  t.equal(moveTypeOf(stopped, desired), "cold");
  const on = { desired: { power: "on" }, observed: { state: "running" } } as never;
  t.equal(moveTypeOf(on, { ...desired, type: "postcopy" }), "postcopy");
  t.equal(moveTypeOf(on, { ...desired, on_unreachable: "postcopy" }), "postcopy", "asked for in other words");
  t.equal(moveTypeOf(stopped, { ...desired, on_unreachable: "postcopy" }), "cold");
});

t.test("predictions", async (t) => {
  const first = {
    ...{ memoryBytes: 1e9, diskBytes: 1e9, bandwidthLimit: null },
    ...{ changedBytes: undefined, last: undefined },
  };
  t.match(predictMove("live", first), {
    bytes_total: 2e9,
    bytes_on_wire: 9e8,
    seconds: 8,
    basis: "assumption",
  });
  t.match(predictMove("cold", first), { bytes_total: 1e9, downtime_ms: null, disk_kept_bytes: 0 });
  const back = { ...first, changedBytes: 1e8 };
  t.match(predictMove("live", back), { bytes_total: 1.1e9, disk_kept_bytes: 9e8 }, "the rest was kept");
  t.match(predictMove("cold", { ...back, changedBytes: 2e9 }), { bytes_total: 1e9, disk_kept_bytes: 0 });
  t.match(predictMove("live", { ...first, bandwidthLimit: 9e6 }), { seconds: 100 });
  const last = deriveReceipt(
    status(),
    move(MovePhase.HANDED_OVER, { bytes_sent: 1e8, bytes_total: 1e9 }),
    undefined,
    now.getTime() + 1000,
    { handedOverAtMs: 0, ranAtMs: 70 },
  );
  const again = predictMove("live", { ...first, last });
  t.match(again, { bytes_on_wire: 2e8, seconds: 2, downtime_ms: 70, basis: "last migration" });
});

t.test("phases and the verb", async (t) => {
  for (const phase of migrationPhases) {
    for (const next of migration.next[phase]) t.ok(migrationPhases.includes(next), `${phase} -> ${next}`);
  }
  t.equal(migration.phase(request(undefined)), "preparing");
  const cancel = migration.verbs["cancel"];
  t.match(cancel?.apply(request(status()), {}), { cancel: true });
  const late = request(status({ committed_at: now.toISOString() }));
  t.throws(() => cancel?.apply(late, {}), Fault, "too late");
});

t.test("a drain stops a machine for its move only when it may, and says why one stays", (t) => {
  const error = { reason: "MOVE_BLOCKED", message: "it has a device of its host" };
  const standing = (change: Partial<Standing> = {}): Standing => ({
    ...{ phase: "running", adopted: false, open: false, type: null, error: null },
    ...{ idleSeconds: null, fleetChanged: false },
    ...change,
  });
  const failed = (change: Partial<Standing> = {}) =>
    standing({ type: "live", error, idleSeconds: 1, ...change });
  const states = ([change, cold]: [Standing, boolean]) => {
    const { state, error, begin } = judge(change, cold);
    return [state, error?.reason ?? null, begin ?? null];
  };
  const cases: Record<string, [[Standing, boolean], unknown[]]> = {
    "at first": [
      [standing(), true],
      ["waiting", null, "live"],
    ],
    "while it moves": [
      [failed({ open: true }), true],
      ["moving", null, null],
    ],
    "not asked to stop it": [
      [failed(), false],
      ["stuck", "MOVE_BLOCKED", null],
    ],
    "after a minute": [
      [failed({ idleSeconds: 61 }), false],
      ["stuck", "MOVE_BLOCKED", "live"],
    ],
    "others came": [
      [failed({ idleSeconds: 10, fleetChanged: true }), false],
      ["stuck", "MOVE_BLOCKED", "live"],
    ],
    "asked to stop it": [
      [failed(), true],
      ["waiting", "MOVE_BLOCKED", "cold"],
    ],
    "hosts may be back soon": [
      [failed({ error: { reason: "NO_HOST", message: "" } }), true],
      ["waiting", "NO_HOST", null],
    ],
    "stopped in vain": [
      [failed({ type: "cold" }), true],
      ["stuck", "MOVE_BLOCKED", null],
    ],
    "off already": [
      [failed({ phase: "stopped", type: "cold" }), true],
      ["stuck", "MOVE_BLOCKED", null],
    ],
    "called off": [
      [failed({ error: { reason: "CANCELLED", message: "" } }), true],
      ["stuck", "CANCELLED", null],
    ],
    "on its way up": [
      [standing({ phase: "building" }), true],
      ["waiting", null, null],
    ],
    adopted: [
      [standing({ adopted: true }), true],
      ["stuck", "ADOPTED_STAYS", null],
    ],
    failed: [
      [standing({ phase: "failed" }), true],
      ["stuck", "INSTANCE_FAILED", null],
    ],
  };
  for (const [name, [given, expected]] of Object.entries(cases)) t.strictSame(states(given), expected, name);
  t.end();
});

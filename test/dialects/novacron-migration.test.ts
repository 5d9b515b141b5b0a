import t from "tap";
import { z } from "zod";
import { errorSchema } from "#cp/dialects/novacron/errors.ts";
import { formatDuration, parseDuration } from "#cp/dialects/novacron/duration.ts";
import {
  encodeMigration,
  migrationStatuses,
  migrationView,
  statusOf,
} from "#cp/dialects/novacron/migration.ts";
import { changeResource, insertResource, lockResource } from "#cp/engine/rows.ts";
import { host } from "#cp/resources/host/host.resource.ts";
import {
  migration,
  migrationPhases,
  type Migration,
  type MigrationStatus,
} from "#cp/resources/migration/migration.resource.ts";
import { newId } from "#kernel/id.ts";
import { silentLogger } from "#kernel/log.ts";
import { hostId, reportRunning, startApi, type World } from "#test/support/api-world.ts";

const azure = newId("host");
const documentedBody = {
  target_provider: "azure",
  target_region: "eastus",
  migration_type: "live",
  enable_wan_optimization: true,
  max_downtime: "1s",
};

/** The documented fields, each with its documented type. */
const documented = {
  begun: z.object({
    migration_id: z.string().regex(/^mig-[0-9a-z]+$/),
    vm_id: z.string().regex(/^vm-/),
    status: z.literal("in_progress"),
    phase: z.literal("pre-copy"),
    started_at: z.iso.datetime(),
    estimated_completion: z.iso.datetime(),
  }),
  completed: z.object({
    migration_id: z.string().regex(/^mig-/),
    vm_id: z.string().regex(/^vm-/),
    status: z.literal("completed"),
    phase: z.literal("complete"),
    source_provider: z.string(),
    target_provider: z.string(),
    started_at: z.iso.datetime(),
    completed_at: z.iso.datetime(),
    downtime: z.string().regex(/^\d+ms$/),
    data_transferred: z.int(),
    compression_ratio: z.number(),
  }),
};

const begun: MigrationStatus = {
  stage: "preparing",
  type: "live",
  source: { host_id: hostId, provider: "aws", region: "us-east-1" },
  target: { host_id: azure, provider: "azure", region: "eastus" },
  waiting_for: null,
  waiting_since: null,
  progress: null,
  receipt: null,
  error: null,
  started_at: "2026-01-01T00:00:00.000Z",
  committed_at: null,
  ended_at: null,
};
const progress: NonNullable<MigrationStatus["progress"]> = {
  bytes_total: 1000,
  bytes_remaining: 400,
  bytes_sent: 360,
  dirty_rate: 7,
  throughput: 90,
  compression_ratio: 0.6,
  predicted_downtime_ms: 1500,
  rounds: 2,
  codec: "zstd",
  page_stage: true,
  estimated_completion_at: "2026-01-01T00:00:10.000Z",
};
const receipt: NonNullable<MigrationStatus["receipt"]> = {
  duration_ms: 25_000,
  downtime_ms: 450,
  stopped_ms: 400,
  resumed_ms: 20,
  phase_ms: { "pre-copy": 24_000 },
  bytes_total: 1000,
  bytes_sent: 600,
  compression_ratio: 0.6,
  bytes: {
    memory_raw: 1000,
    memory_zero: 0,
    memory_in_image: 0,
    memory_wire: 600,
    disk_raw: 0,
    disk_wire: 0,
    disk_kept: 0,
  },
  rounds: 3,
  codec_history: [],
  page_stage: true,
  convergence: null,
  cpu_seconds: { source: 1, target: 1 },
};

/** A cloud of two providers, and a VM that runs at the one. */
async function startWorld(t: Parameters<typeof startApi>[0]) {
  const world = await startApi(t);
  const row = {
    id: azure,
    project: "root",
    name: "site-b",
    labels: {},
    desired: {
      provider: "azure",
      region: "eastus",
      zone: "b",
      location: null,
      prices: null,
      overcommit: { cpus: 8, memory: 1.5, disk: 4 },
      cordoned: false,
    },
    observed: undefined,
    refs: {},
  };
  await insertResource(world.database, host, row);
  const created = await world.call("POST", "/v1/vms", { name: "web", image: "micro" });
  const id = String(created.body["id"]);
  await reportRunning(world, id);
  return { ...world, id, path: `/v1/vms/${id}` };
}

/** Does what the engine does when the hosts have told how far it is. */
async function report(world: Pick<World, "database">, id: string, observed: MigrationStatus) {
  await world.database.transaction(async (tx) => {
    const before = await lockResource(tx, id);
    if (!before) throw new Error(`no ${id}`);
    const change = { observed, observedGeneration: before.generation };
    await changeResource(tx, migration, before, change, silentLogger);
    if (observed.ended_at) await tx.query("update resource set request_of = null where id = $1", [id]);
  });
}

void t.test("the documented requests", async (t) => {
  const world = await startWorld(t);
  const { call, id, path } = world;
  const asked = await call("POST", `${path}/migrate`, documentedBody, { "idempotency-key": "k1" });
  t.equal(asked.status, 202);
  t.same(documented.begun.safeParse(asked.body).error?.issues ?? [], []);
  t.ok(migrationView.safeParse(asked.body).success, "as its own document says");
  t.match(asked.body, {
    vm_id: id,
    target_provider: "azure",
    target_region: "eastus",
    max_downtime: "1s",
    on_unreachable: "abort",
    stage: "preparing",
    downtime: null,
    data_transferred: 0,
  });
  const migrationId = String(asked.body["migration_id"]);
  t.equal(asked.headers.get("location"), `/v1/migrations/${migrationId}`);
  t.same(
    (await call("POST", `${path}/migrate`, documentedBody, { "idempotency-key": "k1" })).body,
    asked.body,
    "the same key again gives the same answer",
  );
  t.match((await call("GET", `/skerry/v1/migrations/${migrationId}`)).body["spec"], {
    instance: id,
    type: "live",
    provider: "azure",
    region: "eastus",
    max_downtime_ms: 1000,
    wan_optimization: "on",
  });
  const twice = await call("POST", `${path}/migrate`, documentedBody);
  t.equal(twice.status, 409);
  t.match(twice.body["error"], { code: "MIGRATION_IN_PROGRESS", details: { id: migrationId } });
  const active = async () => (await call("GET", "/v1/metrics/system")).body["active_migrations"];
  t.equal(await active(), 1);

  const single = `/v1/migrations/${migrationId}`;
  await report(world, migrationId, { ...begun, stage: "disk-copy", progress });
  const copying = await call("GET", single);
  t.equal(copying.status, 200);
  t.match(copying.body, {
    status: "in_progress",
    phase: "pre-copy",
    stage: "disk-copy",
    source_provider: "aws",
    estimated_completion: progress.estimated_completion_at,
    completed_at: null,
    downtime: null,
    predicted_downtime: "1.5s",
    data_transferred: 360,
    compression_ratio: 0.6,
    bytes_total: 1000,
    bytes_remaining: 400,
    dirty_rate: 7,
    throughput: 90,
    error: null,
  });
  const etag = copying.headers.get("etag") ?? "";
  t.equal((await call("GET", single, undefined, { "if-none-match": etag })).status, 304);

  const ended_at = "2026-01-01T00:00:25.000Z";
  await report(world, migrationId, { ...begun, stage: "complete", progress, receipt, ended_at });
  const completed = await call("GET", single);
  t.same(documented.completed.safeParse(completed.body).error?.issues ?? [], []);
  t.match(completed.body, {
    downtime: "450ms",
    data_transferred: 600,
    bytes_remaining: 0,
    dirty_rate: 0,
    throughput: 0,
    estimated_completion: null,
    predicted_downtime: null,
  });
  t.equal(await active(), 0);

  const listed = await call("GET", "/v1/migrations?status=completed&page=1&limit=20");
  t.match(listed.body, { migrations: [{ migration_id: migrationId }], total: 1, page: 1, limit: 20 });
  t.match((await call("GET", "/v1/migrations")).body, { total: 1, page: 1, limit: 20 });
  t.match((await call("GET", `/v1/migrations?vm_id=${id}`)).body, { total: 1 });
  t.match((await call("GET", "/v1/migrations?vm_id=vm-other")).body, { migrations: [], total: 0 });
  t.match((await call("GET", "/v1/migrations?status=in_progress")).body, { migrations: [], total: 0 });
});

void t.test("what may be left out, what it would be, and what is refused", async (t) => {
  const { call, path, id, database } = await startWorld(t);
  await database.query(
    `insert into incarnation (resource_id, host_id, seq, epoch, accepted_generation, generation, state, observed)
     select id, host_id, 1, 1, 1, 1, 'running', '{"move_blocker": "added_memory"}' from resource where id = $1
     on conflict (resource_id, host_id) do update set observed = excluded.observed`,
    [id],
  );
  const dry = await call("POST", `${path}/migrate`, { ...documentedBody, dry_run: true });
  t.equal(dry.status, 200);
  t.match(dry.body, { dry_run: true, possible: false, migration_type: "live", duration: /^\d/ });
  t.match(dry.body["blockers"], [
    { code: "added_memory", message: /restart it first/ },
    { code: "reachability", message: "its host is not connected" },
  ]);
  t.match((await call("GET", "/v1/migrations")).body, { total: 0 }, "a dry run leaves nothing");

  const known = [
    { provider: "aws", region: "us-east-1" },
    { provider: "azure", region: "eastus" },
  ];
  const field = (name: string) => ({ fields: [{ field: name }] });
  const refused: [Record<string, unknown>, unknown][] = [
    [{ target_provider: "nobody" }, { ...field("target_provider"), known }],
    [
      { target_provider: "azure", target_region: "moon-1" },
      { ...field("target_region"), known },
    ],
    [{ target_host: "site-z" }, { ...field("target_host"), known: ["site-a", "site-b"] }],
    [{ max_downtime: "soon" }, field("max_downtime")],
    [{ max_downtime: "1" }, field("max_downtime")],
    [{ max_downtime: "0s" }, field("max_downtime")],
    [{ max_downtime: "11m" }, field("max_downtime")],
    [{ max_downtime: 1 }, field("max_downtime")],
    [{ bandwidth_limit: 0 }, field("bandwidth_limit")],
    [{ on_unreachable: "pray" }, field("on_unreachable")],
    [{ migration_type: "warm" }, field("migration_type")],
    [{ enable_wan_optimization: "yes" }, field("enable_wan_optimization")],
    [{ target_zone: "b" }, field("target_zone")],
  ];
  for (const [body, details] of refused) {
    for (const dry_run of [true, false]) {
      const answer = await call("POST", `${path}/migrate`, { ...body, dry_run });
      t.equal(answer.status, 400, JSON.stringify(body));
      t.ok(errorSchema.safeParse(answer.body).success);
      t.match(answer.body["error"], { code: "VALIDATION_ERROR", details }, JSON.stringify(body));
    }
  }
  const wording = await call("POST", `${path}/migrate`, { max_downtime: "soon" });
  t.match(wording.body, {
    error: { message: 'max_downtime: must be a duration from 1ms to 10m, such as "450ms" or "1.5s"' },
  });

  const absent = newId("mig");
  const missing = await call("GET", `/v1/migrations/${absent}`);
  t.equal(missing.status, 404);
  t.match(missing.body["error"], {
    code: "RESOURCE_NOT_FOUND",
    message: `Migration with ID ${absent} not found`,
    details: { migration_id: absent },
  });
  t.match((await call("POST", "/v1/vms/vm-absent/migrate", {})).body["error"], {
    code: "RESOURCE_NOT_FOUND",
    details: { vm_id: "vm-absent" },
  });
  t.equal((await call("GET", "/v1/migrations?status=done")).status, 400);
  t.equal((await call("DELETE", `/v1/migrations/${absent}`)).status, 405);

  const pending = await call("POST", "/v1/vms", { name: "young", image: "micro" });
  const early = await call("POST", `/v1/vms/${String(pending.body["id"])}/migrate`, {});
  t.equal(early.status, 409);
  t.match(early.body["error"], { code: "PHASE_CONFLICT", details: { phase: "pending" } });
  t.equal((await call("POST", `${path}/migrate`, {})).status, 202, "the scheduler chooses");
});

void t.test("every phase has its words", async (t) => {
  t.same(new Set(Object.values(statusOf)), new Set(migrationStatuses));
  const resource: Migration = {
    id: newId("mig"),
    kind: "migration",
    project: "root",
    name: "web",
    labels: {},
    generation: 1,
    observedGeneration: 0,
    desired: migration.spec.parse({ instance: newId("vm") }),
    observed: undefined,
    refs: {},
    placement: undefined,
    problem: undefined,
    phase: "preparing",
    hostId: undefined,
    revision: 1,
    schemaVersion: 1,
    owner: "",
    createdAt: new Date(0),
    updatedAt: new Date(0),
    deletingAt: undefined,
  };
  for (const phase of migrationPhases) {
    const shown = encodeMigration({ ...resource, phase });
    t.equal(shown.status, statusOf[phase]);
    t.same(migrationView.safeParse(shown).error?.issues ?? [], [], phase);
  }
  const error = { reason: "MAX_DOWNTIME_UNREACHABLE", message: "1.5 s would be needed" };
  const failed = encodeMigration({ ...resource, phase: "failed", observed: { ...begun, error } });
  t.match(failed, { status: "failed", error: { code: error.reason, message: error.message } });
});

void t.test("durations are read back as they were written", async (t) => {
  const written: [number, string][] = [
    [0, "0s"],
    [1, "1ms"],
    [450, "450ms"],
    [1000, "1s"],
    [1500, "1.5s"],
    [60_000, "1m"],
    [90_250, "1m30.25s"],
    [600_000, "10m"],
    [3_600_000, "1h"],
    [3_661_001, "1h1m1.001s"],
  ];
  for (const [ms, text] of written) {
    t.equal(formatDuration(ms), text);
    t.equal(parseDuration(text), ms);
  }
  for (let ms = 1; ms < 10_000_000; ms = Math.ceil(ms * 1.37)) t.equal(parseDuration(formatDuration(ms)), ms);
  for (const bad of [
    "",
    "s",
    "1",
    "-1s",
    "1 s",
    "1s ",
    "1d",
    "1e3s",
    "0x1s",
    ".5s",
    "1..5s",
    "9".repeat(50),
  ]) {
    t.equal(parseDuration(bad), undefined, bad);
  }
});

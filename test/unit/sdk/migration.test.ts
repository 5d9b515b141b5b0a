import { PassThrough } from "node:stream";
import t, { type Test } from "tap";
import { describeLive, describePlain } from "#sdk/cli/following.ts";
import { Progress } from "#sdk/cli/progress.ts";
import { runCommand } from "#sdk/cli/run.ts";
import type { Terminal } from "#sdk/cli/session.ts";
import { formatTime, parseDuration, parseRate } from "#sdk/cli/units.ts";
import { Skerry, type Migration } from "#sdk/index.ts";
import { anInstance, events, page, problem, ScriptedCloud } from "#test/support/scripted-cloud.ts";

const MiB = 1024 ** 2;
const instances = "/skerry/v1/instances";
const migrations = "/skerry/v1/migrations";
const web = anInstance();
const id = "mig-0123456789abcdefghjk";
const [hostA, hostB] = ["host-0123456789abcdefghjk", "host-bbbbbbbbbbbbbbbbbbbb"];
const hosts = [
  { id: hostA, name: "site-a" },
  { id: hostB, name: "site-b" },
];

const site = (host_id: string, provider: string, region: string) => ({ host_id, provider, region });
const begun = {
  stage: "preparing",
  type: "live",
  source: site(hostA, "aws", "us-east-1"),
  target: site(hostB, "azure", "eastus"),
  waiting_for: null,
  waiting_since: null,
  progress: null,
  receipt: null,
  error: null,
  started_at: "2026-01-01T00:00:00.000Z",
  committed_at: null,
  ended_at: null,
};
const progress = (bytes_remaining: number) => ({
  bytes_total: 512 * MiB,
  bytes_remaining,
  bytes_sent: 100 * MiB,
  dirty_rate: 2 * MiB,
  throughput: 12 * MiB,
  compression_ratio: 0.4,
  predicted_downtime_ms: 120,
  rounds: 2,
  codec: "zstd",
  page_stage: true,
  estimated_completion_at: "2026-01-01T00:00:20.000Z",
});
const receipt = {
  duration_ms: 12_340,
  downtime_ms: 84,
  stopped_ms: 60,
  resumed_ms: 12,
  phase_ms: { preparing: 340, "pre-copy": 11_900, switchover: 84 },
  bytes_total: 600 * MiB,
  bytes_sent: 66 * MiB,
  compression_ratio: 0.11,
  bytes: {
    memory_raw: 112 * MiB,
    memory_zero: 400 * MiB,
    memory_in_image: 30 * MiB,
    memory_wire: 40 * MiB,
    disk_raw: 88 * MiB,
    disk_wire: 26 * MiB,
    disk_kept: 936 * MiB,
  },
  rounds: 3,
  codec_history: [
    { codec: "lz4", at_ms: 0 },
    { codec: "zstd", at_ms: 1200 },
  ],
  page_stage: true,
  cpu_seconds: { source: 1.25, target: 0.9 },
};

const aMigration = (phase: string, status: object | null, changes: object = {}) => ({
  ...anInstance(),
  id,
  kind: "migration",
  labels: {},
  phase,
  observed_generation: ["complete", "failed", "cancelled"].includes(phase) ? 1 : 0,
  spec: {
    instance: web.id,
    type: "live",
    provider: "azure",
    region: "eastus",
    host: null,
    max_downtime_ms: 500,
    on_unreachable: "abort",
    wan_optimization: "auto",
    bandwidth_limit: null,
    cancel: false,
  },
  status,
  placement: null,
  ...changes,
});
const complete = aMigration("complete", {
  ...begun,
  stage: "complete",
  receipt,
  ended_at: "2026-01-01T00:00:12.340Z",
});

async function world(t: Test) {
  const server = await ScriptedCloud.start();
  t.teardown(() => server[Symbol.asyncDispose]());
  server.on("GET /skerry/v1/hosts", page(hosts)).on(`GET ${instances}`, page([web]));
  const env = { SKERRY_URL: server.url, SKERRY_TOKEN: "sk_1", XDG_CONFIG_HOME: "/nonexistent" };
  const skerry = async (...args: string[]) => {
    const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()];
    const streams = { stdin: stdin as unknown as Terminal["stdin"], stdout, stderr };
    const { signal } = new AbortController();
    const code = await runCommand(args, { ...streams, env, signal });
    const text = (stream: PassThrough) => (stream.read() as Buffer | null)?.toString() ?? "";
    return { code, out: text(stdout), err: text(stderr) };
  };
  return { server, skerry };
}

await t.test("moves a machine, tells how that goes, and prints the receipt", async (t) => {
  const { server, skerry } = await world(t);
  server.on(`POST ${instances}/${web.id}/migrate`, { status: 201, body: aMigration("preparing", null) });
  server.on(
    `GET ${migrations}/${id}`,
    events([
      ["present", aMigration("preparing", null)],
      ["synced", {}],
      ["changed", aMigration("preparing", { ...begun, waiting_for: "host b is not connected" })],
      ["changed", aMigration("pre-copy", { ...begun, progress: progress(512 * MiB) })],
      ["changed", aMigration("pre-copy", { ...begun, progress: progress(300 * MiB) })],
      ["changed", aMigration("pre-copy", { ...begun, progress: progress(200 * MiB) })],
      ["changed", aMigration("pre-copy", { ...begun, progress: progress(190 * MiB) })],
      ["changed", complete],
    ]),
  );
  const flags = "--to azure/eastus --max-downtime 500ms --on-unreachable abort --bandwidth-limit 100mbit";
  const ran = await skerry("vm", "migrate", "web", ...flags.split(" "));
  t.equal(ran.code, 0, ran.err);
  t.same(server.askedOf(`POST ${instances}/${web.id}/migrate`)[0]?.body, {
    provider: "azure",
    region: "eastus",
    max_downtime_ms: 500,
    on_unreachable: "abort",
    bandwidth_limit: 12_500_000,
  });
  t.equal(
    ran.err,
    [
      `${id} moves web; \`skerry migration cancel ${id}\` calls it off.`,
      "web: preparing",
      "web: preparing, waiting: host b is not connected",
      "web: pre-copy",
      "web: pre-copy, 25 % of 512 MiB",
      "web: pre-copy, 50 % of 512 MiB",
      "web: complete",
      "web has moved from aws/us-east-1 to azure/eastus. It stood still for 84 ms.",
      "",
    ].join("\n"),
  );
  t.equal(
    ran.out,
    [
      "vm:           web",
      `id:           ${id}`,
      "phase:        complete",
      "type:         live",
      "from:         aws/us-east-1 (site-a)",
      "to:           azure/eastus (site-b)",
      "max downtime: 500 ms, else abort",
      "took:         12.3 s: preparing 340 ms, pre-copy 11.9 s, switchover 84 ms",
      "downtime:     84 ms (source 60 ms, target 12 ms)",
      "sent:         66 MiB, 11.0 % of what had to move",
      "memory:       112 MiB in 3 rounds, 30 MiB found in the image, 400 MiB zeros, 40 MiB sent",
      "disk:         88 MiB of 1 GiB (the rest was kept there), 26 MiB sent",
      "codec:        lz4 from 0 ms, zstd from 1.2 s",
      "page stage:   on",
      "cpu:          source 1.3 s, target 0.9 s",
      "started:      2026-01-01T00:00:00.000Z",
      "ended:        2026-01-01T00:00:12.340Z",
      "",
    ].join("\n"),
  );
});

await t.test("what ends badly is told, with its reason and an exit code", async (t) => {
  const { server, skerry } = await world(t);
  const error = { reason: "MAX_DOWNTIME_UNREACHABLE", message: "it would have stood still for 3 s" };
  const failed = aMigration("failed", { ...begun, error, ended_at: "2026-01-01T00:01:00.000Z" });
  server.on(`POST ${instances}/${web.id}/migrate`, { status: 201, body: aMigration("preparing", null) });
  server.on(
    `GET ${migrations}/${id}`,
    events([
      ["present", failed],
      ["synced", {}],
    ]),
  );
  const ran = await skerry("vm", "migrate", "web", "-o", "json");
  t.equal(ran.code, 1);
  t.same(JSON.parse(ran.out), failed);
  t.match(
    ran.err,
    /error: web has not moved: it would have stood still for 3 s \(MAX_DOWNTIME_UNREACHABLE\)\n/,
  );

  const cloud = new Skerry({ url: server.url });
  await t.rejects(cloud.migrations.waitFor(id, { phases: ["complete"] }), {
    code: "conflict",
    reason: "MAX_DOWNTIME_UNREACHABLE",
    message: "web is failed: it would have stood still for 3 s",
  });

  const busy = { details: { id } };
  server.on(
    `POST ${instances}/${web.id}/migrate`,
    problem(409, "conflict", "REQUEST_UNDER_WAY", "there is already a migration of it under way", busy),
  );
  t.match(await skerry("vm", "migrate", "web"), { code: 1, out: "", err: /REQUEST_UNDER_WAY/ });
  for (const to of ["/eastus", "azure/", "a/b/c", ""]) {
    t.equal((await skerry("vm", "migrate", "web", "--to", to)).code, 2, to);
  }
  for (const flag of [
    "--type=warm",
    "--on-unreachable=pray",
    "--max-downtime=soon",
    "--bandwidth-limit=fast",
  ]) {
    t.equal((await skerry("vm", "migrate", "web", flag)).code, 2, flag);
  }
});

await t.test("a dry run says what it would be, and whether", async (t) => {
  const { server, skerry } = await world(t);
  const predicted = {
    bytes_total: 600 * MiB,
    disk_kept_bytes: 40 * MiB,
    bytes_on_wire: 270 * MiB,
    seconds: 3,
    downtime_ms: 150,
    basis: "assumption",
  };
  const plan = { possible: true, type: "live", target: begun.target, predicted, blockers: [] };
  const blockers = [{ code: "capacity", message: "1 host full (memory: 1.0 GiB short)" }];
  server.on(
    `POST ${instances}/${web.id}/migrate`,
    { body: plan },
    { body: { ...plan, possible: false, target: null, blockers } },
  );
  const possible = await skerry("vm", "migrate", "web", "--to", "azure", "--dry-run");
  t.equal(possible.code, 0);
  t.same(server.askedOf(`POST ${instances}/${web.id}/migrate`)[0]?.body, {
    provider: "azure",
    dry_run: true,
  });
  t.equal(
    possible.out,
    [
      "vm:             web",
      "possible:       yes",
      "type:           live",
      "to:             azure/eastus (site-b)",
      "to move:        600 MiB, besides 40 MiB of disk that is kept there",
      "to send:        about 270 MiB",
      "would take:     about 3.0 s",
      "downtime:       about 150 ms",
      "predicted from: assumptions: it has not moved before",
      "",
    ].join("\n"),
  );
  const blocked = await skerry("vm", "migrate", "web", "--dry-run");
  t.equal(blocked.code, 1);
  t.match(blocked.out, /^in the way: +1 host full \(memory: 1\.0 GiB short\) \(capacity\)$/m);
  t.match(blocked.err, /web cannot move there now: 1 host full .* \(MOVE_BLOCKED\)/);
});

await t.test("migrations are listed, shown, followed and cancelled, by id or by machine", async (t) => {
  const { server, skerry } = await world(t);
  const moving = aMigration("pre-copy", { ...begun, progress: progress(256 * MiB) });
  server.on(`GET ${migrations}`, page([complete, moving])).on(`GET ${migrations}/${id}`, { body: complete });
  const listed = await skerry("migration", "ls", "--vm", "web", "--phase", "complete,pre-copy");
  t.equal(server.askedOf(`GET ${migrations}`)[0]?.query.get("instance"), web.id);
  t.match(listed.out.split("\n")[0], /^ID +VM +PHASE +FROM +TO +SENT +DOWNTIME +TOOK +AGE$/);
  t.match(
    listed.out,
    new RegExp(`^${id} +web +complete +aws/us-east-1 +azure/eastus +66 MiB +84 ms +12.3 s `, "m"),
  );
  t.match((await skerry("migration", "show", id)).out, /^downtime: +84 ms/m);
  const newest = await skerry("migration", "show", "web");
  t.match(newest.out, /^phase: +pre-copy$/m);
  t.match(newest.out, /^remaining: +256 MiB of 512 MiB$/m);
  t.match(newest.out, /^sent: +100 MiB at 12 MiB\/s, zstd$/m);

  server.on(`POST ${migrations}/${id}/cancel`, { status: 202, body: moving });
  t.equal((await skerry("migration", "cancel", "web")).out, `${id} of web is being called off (pre-copy).\n`);
  const cancelled = aMigration("cancelled", { ...begun, ended_at: "2026-01-01T00:00:02.000Z" });
  const watched = (last: object) =>
    events([
      ["present", moving],
      ["synced", {}],
      ["changed", last],
    ]);
  server.on(`GET ${migrations}/${id}`, watched(cancelled));
  server.on(`GET ${migrations}`, page([moving]));
  t.match(await skerry("migration", "cancel", "web", "--wait"), {
    code: 0,
    out: `${id} of web has been called off.\n`,
    err: "web: pre-copy, 50 % of 512 MiB\nweb: cancelled\n",
  });
  server.on(`GET ${migrations}/${id}`, watched(complete));
  t.match(await skerry("migration", "cancel", "web", "--wait"), { code: 1, err: /ALREADY_COMMITTED/ });
  t.match(await skerry("migration", "show", "web", "--follow"), { code: 0, out: /phase: +complete/ });
  server.on(`GET ${migrations}`, page([]));
  t.match(await skerry("migration", "show", "web"), { code: 1, err: /web has never been moved/ });
});

await t.test("on a terminal one line has it all, and never more than fits", async (t) => {
  const moving = aMigration("pre-copy", { ...begun, progress: progress(128 * MiB) }) as unknown as Migration;
  t.same(describeLive(moving), {
    stage: "pre-copy [###############-----] 75 % of 512 MiB",
    detail: "sent 100 MiB at 12 MiB/s, guest writes 2 MiB/s, would stop for 120 ms",
  });
  t.same(describePlain(moving), { stage: "pre-copy, 75 % of 512 MiB" });
  const first = { ...progress(512 * MiB), dirty_rate: 0, predicted_downtime_ms: 0 };
  const early = aMigration("pre-copy", { ...begun, progress: first }) as unknown as Migration;
  t.equal(describeLive(early).detail, "sent 100 MiB at 12 MiB/s", "what is not known yet is not told");
  const over = { ...begun, progress: progress(128 * MiB), ended_at: "2026-01-01T00:01:00.000Z" };
  t.same(describeLive(aMigration("complete", over) as unknown as Migration), { stage: "complete" });
  let shown = "";
  const sink = { isTTY: true, columns: 40, write: (text: string) => (shown += text) };
  {
    using line = new Progress(sink);
    line.update("web: pre-copy", "a detail that is too long for the line");
    t.equal(shown, "\r\u001b[Kweb: pre-copy (a detail that is to…  0s");
  }
  t.same(["100mbit", "1gbit/s", "8bit", "12m", "12MiB/s"].map(parseRate), [
    12.5e6,
    125e6,
    1,
    12 * MiB,
    12 * MiB,
  ]);
  t.throws(() => parseRate("fast"));
  t.same([0, 84.4, 999, 12_340, 119_000, 250_000].map(formatTime), [
    "0 ms",
    "84 ms",
    "999 ms",
    "12.3 s",
    "119.0 s",
    "4 min 10 s",
  ]);
  t.same(["500ms", "1.5s", "0.2s"].map(parseDuration), [500, 1500, 200]);
});

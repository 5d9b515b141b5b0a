import t from "tap";
import { z } from "zod";
import { vm, vmKind, vmPhases, vmStatuses } from "#cp/dialects/novacron/vm.ts";
import { errorSchema } from "#cp/dialects/novacron/errors.ts";
import { instanceKind as atonixInstance } from "#cp/dialects/atonix/instance.ts";
import { instanceKind as servicesInstance } from "#cp/dialects/services/instance.ts";
import { instancePhases, type Instance } from "#cp/resources/instance/instance.resource.ts";
import { newIdSuffix } from "#kernel/id.ts";
import {
  caller,
  hostId,
  password,
  reportRunning,
  startApi,
  username,
  type Answered,
} from "#test/support/api-world.ts";

const GiB = 1024 ** 3;

/** The documented fields, each with its documented type. */
const documented = {
  tokens: z.object({
    access_token: z.string().min(1),
    refresh_token: z.string().min(1),
    expires_in: z.literal(3600),
    token_type: z.literal("Bearer"),
  }),
  vm: z.object({
    id: z.string().regex(/^vm-[0-9a-z]+$/),
    name: z.string(),
    provider: z.string(),
    region: z.string(),
    status: z.enum(vmStatuses),
    cpu: z.int(),
    memory: z.int(),
    disk: z.int(),
    public_ip: z.string(),
    private_ip: z.string(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  }),
  created: z.object({
    id: z.string().regex(/^vm-/),
    name: z.string(),
    status: z.literal("pending"),
    created_at: z.iso.datetime(),
  }),
  system: z.object({
    timestamp: z.iso.datetime(),
    cpu_usage: z.number().min(0).max(1),
    memory_usage: z.number().min(0).max(1),
    disk_usage: z.number().min(0).max(1),
    network_in: z.int(),
    network_out: z.int(),
    active_vms: z.int(),
    active_migrations: z.int(),
  }),
  error: z.object({
    error: z.object({
      code: z.string(),
      message: z.string(),
      details: z.record(z.string(), z.unknown()),
      timestamp: z.iso.datetime(),
    }),
  }),
};

const hasFields = (
  t: { same(a: unknown, b: unknown, message: string): unknown },
  schema: z.ZodType,
  { body }: Answered,
  what: string,
) => t.same(schema.safeParse(body).error?.issues ?? [], [], what);

void t.test("the documented requests", async (t) => {
  const world = await startApi(t);
  const { call } = world;
  const page = z.object({ vms: z.array(documented.vm), total: z.int(), page: z.int(), limit: z.int() });

  const login = await caller(world.url)("POST", "/v1/auth/login", { username, password, mfa_code: "123456" });
  t.equal(login.status, 200);
  hasFields(t, documented.tokens, login, "login");

  const create = {
    name: "web-server-2",
    provider: "aws",
    region: "us-east-1",
    cpu: 4,
    memory: 8 * GiB,
    disk: 100 * GiB,
    image: "micro",
    network: "default",
    tags: { environment: "production", team: "backend" },
  };
  const created = await call("POST", "/v1/vms", create);
  t.equal(created.status, 201);
  hasFields(t, documented.created, created, "create");
  const id = String(created.body["id"]);
  const path = `/v1/vms/${id}`;
  t.equal(created.headers.get("location"), path);
  t.match(created.body, { cpu: 4, memory: 8 * GiB, disk: 100 * GiB, tags: create.tags, image: "micro" });

  await reportRunning(world, id);
  const read = await call("GET", path);
  t.equal(read.status, 200);
  hasFields(t, documented.vm, read, "get");
  t.match(read.body, { status: "running", provider: "aws", region: "us-east-1", private_ip: "10.0.2.15" });
  t.ok(vm.safeParse(read.body).success, "as its own document says");

  t.same((await call("GET", `/v1/vms/i-${id.slice(3)}`)).body, read.body, "the other dialects' prefix");
  t.match((await call("GET", `/skerry/v1/instances/${id}`)).body, {
    id,
    phase: "running",
    labels: create.tags,
  });

  const listed = await call("GET", "/v1/vms?page=1&limit=50&provider=aws&status=running");
  t.equal(listed.status, 200);
  hasFields(t, page, listed, "list");
  t.match(listed.body, { vms: [{ id }], total: 1, page: 1, limit: 50 });
  t.match((await call("GET", "/v1/vms?provider=azure")).body, { vms: [], total: 0 });
  t.match((await call("GET", "/v1/vms?status=pending")).body, { total: 0 });
  t.match((await call("GET", "/v1/vms?page=2&limit=1")).body, { vms: [], total: 1, page: 2, limit: 1 });
  t.match((await call("GET", "/v1/vms")).body, { page: 1, limit: 50 });

  const tags = { environment: "production", team: "backend", updated: "true" };
  const patched = await call("PATCH", path, { cpu: 8, memory: 16 * GiB, tags });
  t.equal(patched.status, 200);
  hasFields(t, documented.vm, patched, "update");
  t.match(patched.body, { cpu: 8, memory: 16 * GiB, tags });
  const shrunk = await call("PATCH", path, { disk: GiB });
  t.equal(shrunk.status, 400);
  t.match(shrunk.body, { error: { code: "DISK_CANNOT_SHRINK", details: { field: "disk" } } });

  for (const verb of ["stop", "start", "restart"]) {
    const answer = await call("POST", `${path}/${verb}`);
    t.equal(answer.status, 202, verb);
    hasFields(t, documented.vm, answer, verb);
  }

  const at = Date.now() - 60_000;
  for (let i = 0; i < 3; i++) {
    const sample = {
      cpu_usage: 0.25,
      memory_used_bytes: GiB,
      memory_total_bytes: 2 * GiB,
      network_in_bytes: 1000 * i,
    };
    await world.database.query("insert into machine_sample values ($1, $2, $3)", [
      id,
      new Date(at + i * 10),
      sample,
    ]);
  }
  const day = new Date(at).toISOString().slice(0, 10);
  for (const range of [
    "",
    `?start_time=${day}T00:00:00Z&end_time=${day}T23:59:59.999Z`,
    `?start_time=${day}&end_time=${day}`,
    `?start_time=${encodeURIComponent(new Date(at - 1000).toISOString())}`,
  ]) {
    const answer = await call("GET", `${path}/metrics${range}`);
    t.equal(answer.status, 200, range);
    const points = answer.body["metrics"] as unknown[];
    t.ok(points.length >= 1 && points.length <= 3, `${range}: ${String(points.length)} points`);
    t.match(points.at(-1), { timestamp: /Z$/, cpu_usage: 0.25, memory_usage: 0.5, network_in: 2000 });
    t.match(answer.body, { vm_id: id, interval_seconds: Number });
  }
  for (const bad of [
    "start_time=yesterday",
    `start_time=${day}&end_time=2001-01-01`,
    "start_time=2001-01-01",
    "start_time=2025-02-30T99:00:00Z",
  ]) {
    t.equal((await call("GET", `${path}/metrics?${bad}`)).status, 400, bad);
  }

  const host = {
    cpu_usage: 0.5,
    memory_used_bytes: 1,
    memory_total_bytes: 4,
    disk_used_bytes: 1,
    disk_total_bytes: 2,
    network_in_bytes: 7,
    network_out_bytes: 9,
  };
  await world.database.query("insert into host_sample values ($1, now(), $2)", [hostId, host]);
  const system = await call("GET", "/v1/metrics/system");
  hasFields(t, documented.system, system, "system metrics");
  t.match(system.body, {
    cpu_usage: 0.5,
    memory_usage: 0.25,
    disk_usage: 0.5,
    network_in: 7,
    network_out: 9,
  });

  const deleted = await call("DELETE", path);
  t.equal(deleted.status, 202);
  t.match(deleted.body, { id, status: "deleting" });
});

void t.test("what may be left out, and what is refused", async (t) => {
  const { call } = await startApi(t);
  const least = await call("POST", "/v1/vms", { name: "least", image: "micro" });
  t.equal(least.status, 201);
  t.match(least.body, { provider: "", region: "", network: "default", tags: {}, error: null });

  const refused: [string, Record<string, unknown>, unknown][] = [
    [
      "unknown pair",
      { provider: "aws", region: "moon-1" },
      { known: [{ provider: "aws", region: "us-east-1" }] },
    ],
    ["unknown provider", { provider: "nobody" }, { known: Array }],
    ["unknown network", { network: "vpc-123456" }, { known: ["default"], fields: [{ field: "network" }] }],
    ["unknown image", { image: "nothing" }, { known: ["micro"], fields: [{ field: "image" }] }],
    ["negative size", { memory: -1 }, { fields: [{ field: "memory" }] }],
    ["too much", { cpu: 1e300 }, { fields: [{ field: "cpu" }] }],
    ["tag that is no text", { tags: { a: 1 } }, { fields: [{ field: "tags.a" }] }],
    ["tag without a name", { tags: { "": "x" } }, { fields: [{ field: /^tags/ }] }],
  ];
  for (const [what, fields, details] of refused) {
    const answer = await call("POST", "/v1/vms", { name: "x", image: "micro", ...fields });
    t.equal(answer.status, 400, what);
    t.ok(errorSchema.safeParse(answer.body).success);
    hasFields(t, documented.error, answer, what);
    t.match(answer.body["error"], { code: "VALIDATION_ERROR", details }, what);
  }
  const absent = `vm-${newIdSuffix()}`;
  for (const [method, path] of [
    ["GET", ""],
    ["PATCH", ""],
    ["DELETE", ""],
    ["POST", "/start"],
    ["GET", "/metrics"],
  ] as const) {
    const answer = await call(method, `/v1/vms/${absent}${path}`, method === "PATCH" ? {} : undefined);
    t.equal(answer.status, 404, `${method} ${path}`);
    t.match(answer.body["error"], {
      code: "RESOURCE_NOT_FOUND",
      message: `VM with ID ${absent} not found`,
      details: { vm_id: absent },
    });
  }
  t.match((await call("GET", "/v1/vms/img-1")).body, { error: { code: "RESOURCE_NOT_FOUND" } });
});

void t.test("every phase has its word and every word its phases", async (t) => {
  t.same(Object.keys(vmPhases), [...instancePhases]);
  t.same(new Set(Object.values(vmPhases)), new Set(vmStatuses));
  const resource: Instance = {
    id: `vm-${newIdSuffix()}`,
    kind: "instance",
    project: "root",
    name: "x",
    labels: {},
    generation: 1,
    observedGeneration: 0,
    desired: vmKind.definition.spec.parse({ image: "micro", provider: "aws" }),
    observed: undefined,
    refs: {},
    placement: undefined,
    problem: { reason: "NO_HOST", message: "no host has room", stuck: false, generation: 1, since: "" },
    phase: "failed",
    hostId: undefined,
    revision: 1,
    schemaVersion: 1,
    owner: "",
    createdAt: new Date(0),
    updatedAt: new Date(0),
    deletingAt: undefined,
  };
  for (const phase of instancePhases) {
    const shown = vmKind.encode({ ...resource, phase });
    t.equal(shown.status, vmPhases[phase]);
    t.ok(vm.safeParse(shown).success, phase);
  }
  const waiting: Instance = { ...resource, phase: "pending" };
  const error = { code: "NO_HOST", message: "no host has room" };
  t.match(vmKind.encode(waiting), { status: "pending", provider: "aws", error });
  t.match(atonixInstance.encode(waiting), { status: "building", error }, "it has no word for waiting");
  t.match(servicesInstance.encode(waiting), { status: "pending", error });
});

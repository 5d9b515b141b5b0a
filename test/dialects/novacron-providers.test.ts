import t from "tap";
import { RelocationAdvice } from "#cp/app/relocation-advice.ts";
import { Relocations } from "#cp/app/relocations.ts";
import { CachedFleet } from "#cp/engine/fleet.ts";
import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { instanceSpec } from "#cp/resources/instance/instance.resource.ts";
import { z } from "zod";
import { startApi } from "#test/support/api-world.ts";

const GiB = 1024 ** 3;
const wish = { cpu: 4, memory: 8 * GiB, disk: 100 * GiB, optimize_for: "cost" };

/** The documented fields, each with its documented type. */
const documentedProvider = z.object({
  name: z.string(),
  regions: z.array(z.string()).min(1),
  available: z.boolean(),
  resources: z.object({
    total_cpu: z.number(),
    available_cpu: z.number(),
    total_memory: z.number(),
    available_memory: z.number(),
  }),
  pricing: z.object({ cpu_per_hour: z.number(), memory_per_gb: z.number(), currency: z.string() }),
});
const documentedOptimal = z.object({
  provider: z.string(),
  region: z.string(),
  score: z.number().min(0).max(1),
  estimated_cost: z.number(),
  reasoning: z.array(z.string()).min(1),
});

await t.test("providers, the price sheet and advice", async (t) => {
  const { call, database, pair, url } = await startApi(t);
  await database.query("delete from resource where kind = 'host'");
  const addHost = (id: string, provider: string, region: string, latitude: number, longitude: number) =>
    database.query(
      `insert into resource (id, kind, project, name, phase, desired, observed)
       values ($1::text, 'host', 'root', $1::text, 'online',
         jsonb_build_object('provider', $2::text, 'region', $3::text, 'zone', '', 'cordoned', false, 'prices', null,
           'location', jsonb_build_object('latitude', $4::float8, 'longitude', $5::float8, 'city', 'C', 'country', 'X'),
           'overcommit', '{"cpus": 1, "memory": 1, "disk": 1}'::jsonb),
         '{"connected": true, "architecture": "x86_64",
           "capacity": {"cpus": 64, "memory_bytes": 274877906944, "disk_bytes": 4398046511104}}')`,
      [id, provider, region, latitude, longitude],
    );
  await addHost("host-a1", "aws", "us-east-1", 39.04, -77.49);
  await addHost("host-a2", "aws", "us-east-1", 39.04, -77.49);
  await addHost("host-b1", "azure", "westeurope", 52.37, 4.89);
  const priceOf = async (provider: string, region: string | null, cpu_per_hour: number) => {
    const spec = {
      provider,
      region,
      cpu_per_hour,
      memory_per_gb: 0.01,
      disk_gib_per_month: 0.073,
      currency: "USD",
    };
    const name = `${provider}-${region ?? "all"}`;
    const made = await call("POST", "/skerry/v1/prices", { name, spec });
    t.equal(made.status, 201, JSON.stringify(made.body));
  };
  await priceOf("aws", null, 0.5);
  await priceOf("aws", "us-east-1", 0.05);
  await priceOf("azure", null, 0.08);

  const listed = await call("GET", "/v1/providers");
  t.equal(listed.status, 200);
  const { providers } = listed.body as unknown as { providers: z.infer<typeof documentedProvider>[] };
  for (const provider of providers) documentedProvider.parse(provider);
  t.match(providers, [
    { name: "aws", regions: ["us-east-1"], resources: { total_cpu: 128 }, pricing: { cpu_per_hour: 0.05 } },
    { name: "azure", available: true, pricing: { cpu_per_hour: 0.08 } },
  ]);

  const optimal = async (changes: object) => {
    const answer = await call("POST", "/v1/providers/optimal", { ...wish, ...changes });
    return { status: answer.status, body: answer.body };
  };
  const cheapest = await optimal({});
  t.equal(cheapest.status, 200, JSON.stringify(cheapest.body));
  documentedOptimal.parse(cheapest.body);
  // 4 CPUs at 0.05, 8 GiB at 0.01, and 100 GiB of disk at 0.073 a month of 730 hours.
  t.match(cheapest.body, { provider: "aws", region: "us-east-1", estimated_cost: 0.29 });
  t.match(cheapest.body["reasoning"], [/^0\.290 USD\/h, 29 % below the next, aws\/us-east-1$/, /^2 hosts/]);
  t.match(cheapest.body["alternatives"], [{ provider: "azure", estimated_cost: 0.41 }]);

  const near = await optimal({ optimize_for: "latency", near: { city: "Paris" } });
  t.match(near.body, { provider: "azure", region: "westeurope" });
  t.match((near.body["reasoning"] as string[])[1], /^4\d\d km from Paris$/);
  t.match((await optimal({ optimize_for: "availability" })).body, { provider: "aws" });
  t.match((await optimal({ constraints: { regions: ["westeurope"] } })).body, { provider: "azure" });

  const unknown = await optimal({ constraints: { providers: ["gcp"] } });
  t.equal(unknown.status, 400);
  t.match(JSON.stringify(unknown.body), /"known":\["aws","azure"\]/);
  t.equal((await optimal({ near: { city: "Atlantis" } })).status, 400);
  const tooDear = await optimal({ constraints: { max_price: 0.001 } });
  t.match(JSON.stringify(tooDear.body), /3 too dear \(0.290 USD\/h, at most 0.001 USD\/h was asked for\)/);
  t.match(JSON.stringify((await optimal({ cpu: 100 })).body), /3 full/);
  t.strictSame(await database.query("select 1 from reservation"), [], "nothing was reserved");

  const usage = await call("GET", "/skerry/v1/fleet/usage?limit=2");
  t.equal(usage.status, 200);
  t.match(usage.body, { total: 3, items: [{ online: true, instances: 0, used: { cpus: 0 } }, {}] });
  const [dear] = await database.query<{ id: string }>(
    "select id from resource where desired ->> 'provider' = 'azure' limit 1",
  );
  const at = dear?.id ?? "";
  await database.query(
    `insert into resource (id, kind, project, name, desired, observed, phase, host_id, created_at)
     values ('vm-0000000000000000000a', 'instance', 'root', 'old', $2, '{}', 'running', $1, now() - interval '3 days')`,
    [at, JSON.stringify(instanceSpec.parse({ image: "micro" }))],
  );
  await database.query(
    `update resource set observed = observed || '{"capabilities": ["migration"]}' where kind = 'host'`,
  );
  const advised = await call("GET", "/skerry/v1/placement/advice");
  t.equal(advised.status, 200);
  t.match(advised.body, {
    total: 1,
    items: [{ name: "old", from: at, currency: "USD", saves_per_hour: Number, automatic: false }],
  });

  const asked: unknown[] = [];
  const refusals: Fault[] = [];
  const fleet = new CachedFleet(database, defaultPolicy(), Date.now);
  await using relocations = new Relocations({
    ...{ database, everyMs: 60_000, log: silentLogger, now: Date.now },
    advice: new RelocationAdvice({ database, fleet }),
    resources: {
      create: async (ctx, kind, input) => {
        for (const refusal of refusals) throw refusal;
        asked.push({ kind: kind.kind, project: ctx.principal.project, ...input });
        return { status: 201, headers: {}, body: null };
      },
    },
  });
  t.same(
    await relocations.look(),
    { looked: 0, advised: 0, begun: 0 },
    "whoever wants advice only is left alone",
  );
  await database.query(
    `update resource set desired = desired || '{"relocation": "automatic"}' where name = 'old'`,
  );
  t.same(await relocations.look(), { looked: 1, advised: 1, begun: 1 });
  const instance = "vm-0000000000000000000a";
  t.match(asked, [{ kind: "migration", project: "root", spec: { instance, host: /^host-a/ } }]);
  refusals.push(new Fault("conflict", "it is moving", { reason: "MIGRATION_IN_PROGRESS" }));
  t.same(
    await relocations.look(),
    { looked: 1, advised: 1, begun: 0 },
    "what has changed since is no mishap",
  );
  await database.query("update resource set created_at = now() where name = 'old'");
  t.same(await relocations.look(), { looked: 1, advised: 0, begun: 0 }, "what has only just come rests");
  await database.query("update resource set host_id = null, problem = $1 where name = 'old'", [
    { reason: "IMAGE_TOO_LARGE", message: "its image is too large", stuck: true, generation: 1 },
  ]);
  const told = await call("GET", "/skerry/v1/instances/vm-0000000000000000000a/placement");
  t.match(told.body, { host_id: null, verdict: "It waits for something else: its image is too large." });
  const metrics = await fetch(`${url}/skerry/v1/metrics`, {
    headers: { authorization: `Bearer ${pair.access_token}` },
  });
  t.match(metrics.headers.get("content-type"), /^text\/plain/);
  const lines = (await metrics.text()).split("\n");
  t.ok(lines.includes('skerry_resources{kind="instance",phase="running"} 1'));
  t.ok(lines.some((line) => /^skerry_fleet_capacity\{of="cpus"\} \d+$/.test(line)));
  t.ok(
    lines.every(
      (line) => line === "" || line.startsWith("# ") || /^[a-z_]+(\{[^}]*\})? [\d.e+-]+$/.test(line),
    ),
    "each line is one that Prometheus reads",
  );
});

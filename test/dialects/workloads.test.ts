/** Workloads on a cloud of real processes, where only what is in the containers is fake. */
import { access, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { Workload } from "#sdk/kinds/generated.ts";
import { Skerry } from "#sdk/index.ts";
import { startCloud } from "#test/support/cloud.ts";
import { until } from "#test/support/until.ts";

/** Both hosts have one GPU of their own here, as far as a fake engine can tell. */
const cdiFolder = await mkdtemp(join(tmpdir(), "skerry-cdi-"));
t.teardown(() => rm(cdiFolder, { recursive: true }));
const gpuOf = (name: string) => ({ name, containerEdits: { deviceNodes: [{ path: "/dev/null" }] } });
await writeFile(
  join(cdiFolder, "gpu.json"),
  JSON.stringify({ cdiVersion: "0.5.0", kind: "skerry.test/gpu", devices: [gpuOf("0"), gpuOf("all")] }),
);

const cloud = await startCloud(t, {
  agents: 2,
  agentEnv: { SKERRY_AGENT_CDI_FOLDERS: cdiFolder },
  controlPlaneEnv: { SKERRY_SWEEP_MS: "300", SKERRY_MICRO_DIR: "" },
});
const { workloads, images, hosts } = new Skerry({ url: cloud.url, apiKey: cloud.apiKey });
const [near, far] = [
  { latitude: 36.7, longitude: -78.4 },
  { latitude: 39, longitude: -77.5 },
];
const limitMs = 60_000;

/** An image whose content looks like a tar file, which is all that a fake engine asks for. */
const archive = Buffer.alloc(1024);
archive.write("ustar", 257);
const { id: imageId } = await images.create({
  name: "web",
  spec: { type: "container", source: { type: "upload" } },
});
await images.upload(imageId, new Blob([archive]).stream());

const untilPhase = (id: string, ...phases: Workload["phase"][]) =>
  workloads.waitFor(id, { phases, timeoutMs: limitMs });
const create = (name: string, spec: Partial<Workload["spec"]> = {}) =>
  workloads.create({ name, spec: { image: "web", command: ["serve"], ...spec } });
const hostOf = async (id: string) => (await workloads.get(id)).placement?.host_id;
const sites = new Map((await hosts.list().all()).map(({ id, name }) => [id, name]));

await until(async () =>
  (await hosts.list().all()).every(({ status }) => status?.containers?.engine === "fake"),
);

await t.test("it is placed by distance, runs, prints, is restarted and removed", async (t) => {
  const made = await create("shop", {
    target_location: near,
    environment: { A: "b" },
    ports: [{ protocol: "tcp", container_port: 80, host_port: 0, host_address: "127.0.0.1" }],
    health: {
      command: ["true"],
      interval_seconds: 1,
      timeout_seconds: 1,
      retries: 1,
      start_period_seconds: 0,
    },
  });
  t.equal(made.phase, "pending");
  const running = await untilPhase(made.id, "running");
  t.equal(sites.get(running?.placement?.host_id ?? ""), "site-2", "the nearer host has it");
  t.equal(running?.status?.engine, "fake");
  t.ok((running?.status?.ports[0]?.host_port ?? 0) > 0, "the host chose a port");
  await until(async () => (await workloads.get(made.id)).status?.health === "healthy", limitMs);
  const lines = await workloads.readLog(made.id, 10);
  t.same(
    lines.map(({ stream, text }) => [stream, text]),
    [["stdout", "serve"]],
  );
  await workloads.restart(made.id);
  await until(async () => (await workloads.get(made.id)).status?.restarts === 1, limitMs);
  await workloads.stop(made.id);
  t.equal((await untilPhase(made.id, "stopped"))?.status?.exit_code, 0);
  await workloads.delete(made.id);
  t.equal(await untilPhase(made.id, "deleted"), undefined);
});

await t.test("what cannot be run says why", async (t) => {
  const unknown = await create("unknown", { image: "registry.invalid/nothing:1" });
  await until(
    async () => (await workloads.get(unknown.id)).status?.reason === "REGISTRY_UNREACHABLE",
    limitMs,
  );
  t.match((await workloads.get(unknown.id)).status?.message, /archive can be imported instead/);
  const gpu = await create("gpu", { gpus: 2 });
  await until(async () => (await workloads.get(gpu.id)).problem?.reason === "NO_HOST", limitMs);
  t.match((await workloads.get(gpu.id)).problem?.message, /without a free GPU \(1 of 1 GPUs free\)/);
  const job = await create("job", { type: "job", command: ["exit", "0"] });
  const done = await untilPhase(job.id, "stopped");
  t.match(done?.status, { reason: "COMPLETED", exit_code: 0 });
  const broken = await create("broken", { restart_policy: "never", command: ["exit", "3"] });
  const ended = await untilPhase(broken.id, "stopped");
  t.match(ended?.status, { reason: "FAILED", message: "it has failed (exit code 3)", exit_code: 3 });
  await t.rejects(create("vm", { image: "web", ports: [{ container_port: 0 } as never] }));
  await Promise.all([unknown, gpu, job, broken].map(({ id }) => workloads.delete(id)));
});

await t.test("GPUs are given to one each, kept over a kill of the agent, and given back", async (t) => {
  const asking = (name: string) => create(name, { gpus: 1, target_location: far });
  const made = await Promise.all(["one", "two", "three"].map(asking));
  const phases = async () =>
    (await Promise.all(made.map(({ id }) => workloads.get(id)))).map(({ phase }) => phase);
  await until(async () => (await phases()).filter((phase) => phase === "running").length === 2, limitMs);
  const all = await Promise.all(made.map(({ id }) => workloads.get(id)));
  const [late] = all.filter(({ phase }) => phase !== "running");
  const running = all.filter(({ phase }) => phase === "running");
  const near1 = running.find(({ placement }) => sites.get(placement?.host_id ?? "") === "site-1");
  if (!late || !near1) throw new Error("they do not run where they should");
  t.same(near1.status?.gpus, ["skerry.test/gpu=0"]);
  await until(
    async () => /0 of 1 GPUs free/.test((await workloads.get(late.id)).problem?.message ?? ""),
    limitMs,
  );
  t.same(new Set(running.map(({ placement }) => placement?.host_id)).size, 2, "one on each host");
  const { body } = await cloud.request<{ nodes: { resources: { gpu: number } }[] }>("GET", "/v1/edge/nodes");
  t.same(
    body.nodes.map(({ resources }) => resources.gpu),
    [1, 1],
  );
  const { program } = cloud.agents[0]!;
  await program.kill();
  await cloud.untilHosts("offline", ["site-1"]);
  await program.start();
  await cloud.untilHosts("online");
  t.same((await untilPhase(near1.id, "running"))?.status?.gpus, ["skerry.test/gpu=0"]);
  await workloads.delete(near1.id);
  await untilPhase(late.id, "running");
  t.equal(await hostOf(late.id), near1.placement?.host_id, "the next one gets it");
  const left = made.filter(({ id }) => id !== near1.id);
  await Promise.all(left.map(({ id }) => workloads.delete(id)));
});

await t.test("an agent that is killed takes its workloads up again", async (t) => {
  const { id } = await create("lasting", { target_location: far });
  const before = (await untilPhase(id, "running"))?.status?.started_at;
  t.equal(sites.get((await hostOf(id)) ?? ""), "site-1");
  const { program } = cloud.agents[0]!;
  await program.kill();
  await cloud.untilHosts("offline", ["site-1"]);
  t.equal((await workloads.get(id)).phase, "running", "cut off, it is left to run");
  await program.start();
  await cloud.untilHosts("online");
  await workloads.update(id, { labels: { seen: "yes" } });
  t.equal((await untilPhase(id, "running"))?.status?.started_at, before, "it was not restarted");
  await workloads.delete(id);
});

await t.test(
  "one that is to be replaced runs elsewhere when its host is cut off, and once when that is back",
  async (t) => {
    const wish = { target_location: far, on_disconnect: "replace", replace_after_seconds: 1 } as const;
    const { id } = await create("replaced", wish);
    await untilPhase(id, "running");
    const first = await hostOf(id);
    t.equal(sites.get(first ?? ""), "site-1");
    const { program, dataDirectory } = cloud.agents[0]!;
    await program.kill();
    await until(async () => {
      const { placement, status } = await workloads.get(id);
      return placement?.host_id !== first && status?.state === "running";
    }, limitMs);
    t.equal(sites.get((await hostOf(id)) ?? ""), "site-2", "the other host has it");
    await program.start();
    await cloud.untilHosts("online");
    await until(() => isAbsent(`${dataDirectory}/containers/${id}.json`), limitMs);
    t.equal((await workloads.get(id)).status?.state, "running", "the new one runs on");
    await workloads.delete(id);
  },
);

await t.test("the edge of NovaCron", async (t) => {
  const { body } = await cloud.request<{ nodes: { name: string; status: string; workloads: number }[] }>(
    "GET",
    "/v1/edge/nodes",
  );
  t.same(
    body.nodes.map(({ name, status }) => [name, status]),
    [
      ["site-1", "online"],
      ["site-2", "online"],
    ],
  );
  const wish = {
    name: "model",
    type: "ai-inference",
    image: "web",
    resources: { cpu: 1 },
    target_location: near,
  };
  const made = await cloud.request<{ id: string; status: string }>("POST", "/v1/edge/workloads", wish);
  t.equal(made.status, 201);
  await untilPhase(made.body.id, "running");
  const { body: seen } = await cloud.request("GET", `/v1/edge/workloads/${made.body.id}`);
  t.match(seen, { status: "running", resources: { cpu: 1, gpu: 0 }, error: null });
});

function isAbsent(path: string): Promise<boolean> {
  return access(path).then(
    () => false,
    () => true,
  );
}

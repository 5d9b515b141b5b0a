/**
 * Machines outlive their agent: after kill -9 and after an upgrade the same QEMU processes run on. And a
 * QEMU that dies is noticed at once, counted, and started again when its owner wants that.
 */
import { readFile } from "node:fs/promises";
import t from "tap";
import { startCloud } from "#test/support/cloud.ts";
import { findProcessesOf } from "#test/support/processes.ts";
import { until } from "#test/support/until.ts";
import { clientOf, MiB, openDatabase } from "./faults-world.ts";

const bootLimitMs = 180_000;

const cloud = await startCloud(t, {
  driver: "qemu",
  agents: 1,
  agentEnv: { SKERRY_AGENT_STOP_MACHINES: "false" },
});
const database = openDatabase(t, cloud);
const { instances } = clientOf(cloud);
const agent = cloud.agents[0]!;

const create = async (name: string, restartPolicy: "on-failure" | "never") => {
  const spec = {
    image: "micro",
    memory_bytes: 128 * MiB,
    disk_bytes: 256 * MiB,
    restart_policy: restartPolicy,
  };
  const { id } = await instances.create({ name, spec });
  return id;
};
const phoenix = await create("phoenix", "on-failure");
const mortal = await create("mortal", "never");
const ids = [phoenix, mortal];
for (const id of ids) await instances.waitFor(id, { phases: ["running"], timeoutMs: bootLimitMs });

/** The QEMU process of an instance, found among the processes of the system and not in anybody's records. */
async function qemuOf(id: string): Promise<number | undefined> {
  const found = await findProcessesOf(agent.dataDirectory);
  return found.find((one) => /^\S*qemu-system/.test(one.commandLine) && one.commandLine.includes(id))?.pid;
}
const qemus = () => Promise.all(ids.map(qemuOf));
const startedAt = () => Promise.all(ids.map(async (id) => (await instances.get(id)).status?.started_at));

/** Ticks since boot at which a process began: a pid may be used again, the two together may not. */
async function bornAt(pid: number | undefined): Promise<string | undefined> {
  const stat = await readFile(`/proc/${String(pid)}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")")).split(" ")[20];
}

/** When the agent, once its program was loaded, began to look for its machines. */
async function loadedAt(): Promise<number> {
  const lines = (await readFile(agent.program.logFile, "utf8")).split("\n");
  const line = lines.findLast((one) => one.includes('"agent.recovered"')) ?? "{}";
  const { time, ms } = JSON.parse(line) as { readonly time: string; readonly ms: number };
  return Date.parse(time) - ms;
}

/** The number of the newest report of each machine. */
async function reported(): Promise<number> {
  const [row] = await database.query<{ seq: number | null }>("select min(seq) as seq from incarnation");
  return row?.seq ?? 0;
}

for (const [what, end] of [
  ["kill -9", () => agent.program.kill()],
  ["an upgrade", () => agent.program.stop()],
] as const) {
  await t.test(`${what} of the agent leaves the machines alone`, async (t) => {
    const before = { pids: await qemus(), started: await startedAt(), seq: await reported() };
    t.equal(before.pids.filter(Boolean).length, 2, "two guests run");
    const born = await Promise.all(before.pids.map(bornAt));
    await end();
    await cloud.untilHosts("offline");
    t.same(await qemus(), before.pids, "they run on without it");

    const startedMs = Date.now();
    await agent.program.start();
    await until(async () => (await reported()) > before.seq);
    const reportedMs = Date.now();
    // Node translates the sources anew at each start; an installed agent is spared that.
    const loadedMs = await loadedAt();
    t.comment(
      `reported ${String(reportedMs - startedMs)} ms after the start, ${String(reportedMs - loadedMs)} after loading`,
    );
    t.ok(loadedMs >= startedMs, "it is the new agent that has them");
    t.same(await qemus(), before.pids, "the same processes");
    t.same(await Promise.all(before.pids.map(bornAt)), born, "really the same");
    t.same(await startedAt(), before.started, "started when they were started");
    await cloud.untilHosts("online");
    for (const id of ids) {
      const { phase, status } = await instances.get(id);
      t.match({ phase, status }, { phase: "running", status: { state: "running", crashes: 0, restarts: 0 } });
    }
  });
}

await t.test("kill -9 of a QEMU is noticed, counted, and answered as its owner wishes", async (t) => {
  const pids = await qemus();
  const before = await startedAt();
  for (const [id, pid] of ids.map((id, index) => [id, pids[index]] as const)) {
    const began = performance.now();
    process.kill(pid ?? 0, "SIGKILL");
    await until(async () => (await instances.get(id)).status?.crashes === 1);
    const tookMs = performance.now() - began;
    t.comment(`noticed after ${tookMs.toFixed(0)} ms`);
  }
  await instances.waitFor(phoenix, { phases: ["running"], timeoutMs: bootLimitMs });
  await until(async () => (await instances.get(phoenix)).status?.state === "running", bootLimitMs);
  const risen = await instances.get(phoenix);
  t.match(risen, { phase: "running", status: { crashes: 1, restarts: 0, reason: "" } });
  t.not(risen.status?.started_at, before[0]);
  const pid = await qemuOf(phoenix);
  t.ok(pid !== undefined && pid !== pids[0], "another process");

  const dead = await instances.get(mortal);
  t.match(dead, { phase: "stopped", status: { state: "stopped", crashes: 1, reason: "CRASHED" } });
  t.equal(await qemuOf(mortal), undefined, "nothing was started");

  await agent.program.kill();
  await cloud.untilHosts("offline");
  const seq = await reported();
  await agent.program.start();
  await until(async () => (await reported()) > seq);
  t.equal(await qemuOf(mortal), undefined, "not by a new agent either");
  t.match(await instances.get(mortal), { phase: "stopped", status: { reason: "CRASHED", crashes: 1 } });
  t.equal(await qemuOf(phoenix), pid);

  await instances.start(mortal);
  await instances.waitFor(mortal, { phases: ["running"], timeoutMs: bootLimitMs });
  t.ok(await qemuOf(mortal), "only its owner's word starts it again");
});

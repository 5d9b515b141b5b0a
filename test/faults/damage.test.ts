/**
 * Hosts and image servers that let one down: a full disk, damaged files, servers that stall, cut or lie. The
 * instance that needs them says what is wrong, the others run on, and the agent lives.
 */
import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, open, rm, statfs, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import { startCloud } from "#test/support/cloud.ts";
import { serve, startFileServer, type Answer } from "#test/support/file-server.ts";
import { until } from "#test/support/until.ts";
import { clientOf, listMachines, MiB, smallSpec } from "./faults-world.ts";

const run = promisify(execFile);
/** A server that stalls is given up after 30 s. */
const stallLimitMs = 60_000;
const roomyMiB = 640;

const data = await mkdtemp(join(tmpdir(), "skd-"));
t.teardown(() => rm(data, { recursive: true, force: true }));
/** The host's disk, of a size that can be changed; undefined where this user may not mount. */
const disk = await run("mount", [
  "-t",
  "tmpfs",
  "-o",
  `size=${String(roomyMiB)}m,mode=700`,
  "skerry",
  data,
]).then(
  () => ({ resize: (bytes: number) => run("mount", ["-o", `remount,size=${String(bytes)}`, data]) }),
  () => undefined,
);
if (disk) t.teardown(() => run("umount", ["--lazy", data]).then(() => undefined));

/** Contents that differ, for hosts keep and fetch what is the same only once. */
const contents = { good: randomBytes(2 * MiB), cut: randomBytes(2 * MiB), stalling: randomBytes(2 * MiB) };
const digestOf = (content: Uint8Array) => createHash("sha256").update(content).digest("hex");
const server: { answer: Answer } = { answer: serve(contents.good) };
const isHead = (range: string | undefined) => range !== undefined && !range.endsWith("-");
let stalls = 0;
const files = await startFileServer(t, {
  "/good.raw": (...call) => server.answer(...call),
  "/lying.raw": serve(randomBytes(MiB)),
  // Whoever asks for the first bytes gets them; the first download ends half-way.
  "/cut.raw": (request, response, nth) =>
    serve(contents.cut, isHead(request.headers.range) || nth > 1 ? {} : { until: MiB })(
      request,
      response,
      nth,
    ),
  "/stalling.raw": (request, response, nth) => {
    if (isHead(request.headers.range) || stalls++ > 0)
      return serve(contents.stalling)(request, response, nth);
    response.writeHead(200, { etag: '"v1"', "content-length": contents.stalling.length });
    response.write(contents.stalling.subarray(0, MiB));
  },
});

const cloud = await startCloud(t, {
  agents: 1,
  controlPlaneEnv: { SKERRY_OVERCOMMIT_CPUS: "100", SKERRY_IMAGE_ALLOWED_RANGES: "127.0.0.0/8" },
  agentEnv: { SKERRY_AGENT_DATA: data, SKERRY_AGENT_IMAGE_RANGES: "127.0.0.0/8" },
});
const { images, instances } = clientOf(cloud);
const agentPid = cloud.agents[0]?.program.pid;

const importImage = async (name: string, digest: string) => {
  const source = { type: "url" as const, url: files.url(`/${name}.raw`), sha256: digest };
  const { id } = await images.create({ name, spec: { source } });
  await images.waitFor(id, { phases: ["available"] });
};
const create = async (name: string, image = "micro") =>
  (await instances.create({ name, spec: { ...smallSpec, image } })).id;
const running = (id: string) => instances.waitFor(id, { phases: ["running"], timeoutMs: 60_000 });
/** What is said of an instance that could not be had. */
const blame = async (id: string) => {
  await until(async () => (await instances.get(id)).phase === "failed");
  const { problem, status } = await instances.get(id);
  return problem?.reason ?? status?.reason;
};

const bystander = await create("bystander");
const witness = (await running(bystander))?.status?.started_at;
/** The machine that has nothing to do with it runs as before, and so does the agent. */
async function untouched(): Promise<object> {
  const { phase, status } = await instances.get(bystander);
  await cloud.untilHosts("online");
  return { phase, startedAt: status?.started_at, agent: cloud.agents[0]?.program.pid };
}
const asBefore = { phase: "running", startedAt: witness, agent: agentPid };

await importImage("stalling", digestOf(contents.stalling));
const stalled = await create("stalled", "stalling");
await until(() => stalls > 0);

await t.test("an image that is not what was promised", async (t) => {
  await importImage("lying", digestOf(contents.good));
  const id = await create("deceived", "lying");
  t.equal(await blame(id), "IMAGE_DIGEST_MISMATCH");
  t.same(
    (await listMachines(cloud)).filter((machine) => machine.id === id),
    [],
    "nothing was made of it",
  );
  t.same(await untouched(), asBefore);
  await instances.delete(id);
  t.equal(await instances.waitFor(id), undefined, "it can be deleted");
});

await t.test("a server that cuts the transfer is asked for the rest", async (t) => {
  await importImage("cut", digestOf(contents.cut));
  const id = await create("patient", "cut");
  await running(id);
  const ranges = files.asked("/cut.raw").map(({ headers }) => headers.range);
  t.match(ranges.at(-1), /^bytes=[1-9]\d*-$/, "from where it was cut");
});

await t.test("an image that is damaged on the host", async (t) => {
  await importImage("good", digestOf(contents.good));
  const id = await create("resting", "good");
  await running(id);
  await instances.stop(id);
  await instances.waitFor(id, { phases: ["stopped"] });
  const sha256 = digestOf(contents.good);
  const path = join(data, "images", "sha256", sha256.slice(0, 2), sha256);
  const damage = async () => {
    await using file = await open(path, "r+");
    await file.write(Buffer.from("damage"), 0, 6, MiB);
  };

  server.answer = (_request, response) => response.writeHead(404).end();
  await damage();
  await instances.start(id);
  t.equal(await blame(id), "IMAGE_SERVER_REFUSED", "it is not started from damaged bytes");
  t.same(await untouched(), asBefore);

  server.answer = serve(contents.good);
  await instances.restart(id);
  await until(async () => (await instances.get(id)).phase === "running");
  t.ok(files.asked("/good.raw").length > 1, "fetched anew");
});

if (disk) {
  await t.test("a full disk", async (t) => {
    const { blocks, bfree, bsize } = await statfs(data);
    await disk.resize((blocks - bfree) * bsize + MiB);
    await t.rejects(writeFile(join(data, "filling"), Buffer.alloc(2 * MiB)), { code: "ENOSPC" });
    const id = await create("one-too-many");
    await until(async () => (await instances.get(id)).problem !== null);
    const { phase, problem } = await instances.get(id);
    t.match({ phase, problem }, { phase: "building", problem: { reason: "HOST_DISK_FULL" } });
    t.same(await untouched(), asBefore);

    await instances.stop(bystander);
    await until(async () => (await instances.get(bystander)).problem !== null);
    const refused = await instances.get(bystander);
    t.match(refused, { problem: { reason: "HOST_DISK_FULL" }, status: { state: "running" } });
    t.equal(
      (await listMachines(cloud)).find((one) => one.id === bystander)?.state,
      MachineState.RUNNING,
      "that is true",
    );

    await disk.resize(roomyMiB * MiB);
    await instances.start(bystander);
    t.same((await running(bystander))?.status?.started_at, witness, "it was never stopped");
    t.equal(await blame(id), "NO_HOST", "there was no other host to try");
    await instances.delete(id);
    t.equal(await instances.waitFor(id), undefined);
    await running(await create("in-the-room-again"));
  });
} else {
  t.comment("this user may not mount a file system: the full disk was not tried");
}

await t.test("a server that stalls holds up nobody else, and is not waited for for ever", async (t) => {
  const waiting = await instances.get(stalled);
  if (stalls < 2) {
    t.match(waiting, { phase: "building", status: { state: "preparing" } });
  }
  await instances.waitFor(stalled, { phases: ["running"], timeoutMs: stallLimitMs });
  t.equal(stalls, 2, "asked again after the stall");
  t.same(await untouched(), asBefore);
});

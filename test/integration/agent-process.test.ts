/** The agent as a process with the fake driver, against a real gateway: started, killed, cut off, stopped. */
import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { nodeProgram, root } from "#cp/local/programs.ts";
import {
  type Machine,
  type MachineSpec,
  MachineSpecSchema,
  MachineState,
  Power,
  RestartPolicy,
} from "#gen/skerry/agent/v1/machine_pb.js";
import { Program } from "#test/support/program.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { fileBytes, fileSha256, TransportWorld } from "#test/support/transport-world.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, STOPPED } = MachineState;
const signal = new AbortController().signal;
const hostId = "host-one";

const world = await TransportWorld.start();
t.teardown(() => world[Symbol.asyncDispose]());
const data = join(world.directory, "agent");
await mkdir(data);
const knobsFile = join(world.directory, "knobs.json");
await writeFile(knobsFile, "{}");
const labelsFile = join(world.directory, "labels.json");
await writeFile(
  labelsFile,
  JSON.stringify({ provider: "lab", region: "north", prices: { cpuPerHour: 0.05 } }),
);

const environment = {
  PATH: process.env["PATH"] ?? "",
  SKERRY_AGENT_DATA: data,
  SKERRY_AGENT_GATEWAY: world.address,
  SKERRY_AGENT_NAME: "one",
  SKERRY_AGENT_LABELS_FILE: labelsFile,
  SKERRY_AGENT_DRIVER: "fake",
  SKERRY_AGENT_LISTEN_HOST: "127.0.0.1",
  SKERRY_AGENT_LISTEN_PORT: "0",
  SKERRY_AGENT_SAMPLE_SECONDS: "0.2",
  SKERRY_AGENT_FAKE_KNOBS_FILE: knobsFile,
};
const agent = new Program({
  name: "agent",
  argv: nodeProgram("agent/main"),
  env: environment,
  logFile: join(world.directory, "agent.log"),
  announcesReady: false,
});
t.teardown(() => agent[Symbol.asyncDispose]());

function specOf(change: Partial<MachineSpec> = {}): MachineSpec {
  const spec = create(MachineSpecSchema, {
    name: "one",
    image: { id: "img-1", type: 1, files: [{ role: "disk", sha256: fileSha256, format: "raw" }] },
    vcpus: 1,
    memoryBytes: 2n ** 27n,
    diskBytes: 2n ** 26n,
    power: Power.ON,
    restartPolicy: RestartPolicy.ALWAYS,
  });
  return Object.assign(spec, change);
}

function ensure(id: string, generation: number, change: Partial<MachineSpec> = {}): Promise<Machine> {
  const fence = { epoch: 1n, generation: BigInt(generation) };
  return world.agents.ensureMachine(hostId, { id, fence, spec: specOf(change), waitMs: 10_000 }, signal);
}

/** The newest that was reported of a machine. */
function reported(id: string): Machine | undefined {
  return world.reports.flatMap(({ report }) => report.machines.filter((machine) => machine.id === id)).at(-1);
}

const connected = (holds = true) => until(() => world.agents.connected().includes(hostId) === holds);
const full = () => world.reports.some(({ report }) => report.full);

await t.test("a host without a token, or with a wrong one, says so and ends", async (t) => {
  const [program, ...args] = nodeProgram("agent/main");
  for (const [token, reason] of [
    [{}, "NOT_ENROLLED"],
    [{ SKERRY_AGENT_TOKEN: "nonsense" }, "TOKEN_MALFORMED"],
  ] as const) {
    const run = promisify(execFile)(program, args, { cwd: root, env: { ...environment, ...token } });
    const failed = await run.then(
      () => undefined,
      (error: { code: number; stderr: string }) => error,
    );
    t.equal(failed?.code, 1);
    t.match(failed?.stderr, new RegExp(`^error: .*${reason}`));
  }
});

await t.test("it joins and tells what it is", async (t) => {
  await agent.start({ SKERRY_AGENT_TOKEN: world.token("tok-one") });
  await connected();
  await until(full);
  const { report } = world.reports.find(({ report }) => report.full) ?? {};
  t.equal(report?.facts?.driver, "fake");
  t.ok((report?.facts?.capacity?.cpus ?? 0) > 0);
  t.match(report?.facts?.listenAddress, /^127\.0\.0\.1:\d+$/);
  t.equal(report?.labels?.region, "north");
  t.equal(report?.labels?.prices?.cpuPerHour, 0.05);
});

await t.test("commands, refusals, changes, metrics, console", async (t) => {
  const made = await ensure("vm-1", 2);
  t.equal(made.state, RUNNING);
  t.equal(made.imageBytesTotal, BigInt(fileBytes.length), "the image came from the control plane");
  await until(() => reported("vm-1")?.state === RUNNING);
  t.equal(await reasonOf(ensure("vm-1", 1)), "FENCE_STALE");
  t.equal(await reasonOf(ensure("vm-1", 2, { vcpus: 2 })), "FENCE_CONTENT_DIFFERS");
  t.equal(await reasonOf(ensure("../etc", 1)), "COMMAND_INVALID");
  const forwarded = await ensure("vm-1", 3, {
    forwards: [
      {
        $typeName: "skerry.agent.v1.PortForward",
        protocol: "tcp",
        guestPort: 80,
        hostPort: 0,
        hostAddress: "",
      },
    ],
  });
  t.ok((forwarded.forwards[0]?.hostPort ?? 0) > 0, "the agent chose a port");

  const busy = () => world.reports.some(({ report }) => report.machineMetrics.some((m) => m.cpuUsage > 0));
  await until(busy);
  const metrics = await world.agents.machineMetrics(hostId, "vm-1", signal);
  t.ok(metrics.cpuSeconds > 0);
  t.ok((await world.agents.hostMetrics(hostId, signal)).memoryTotalBytes > 0n);

  const log = await world.agents.readConsoleLog(
    hostId,
    { machineId: "vm-1", offset: 0n, limit: 100 },
    signal,
  );
  t.match(Buffer.from(log.output).toString(), /^fake machine vm-1 started/);
  const leave = new AbortController();
  let seen = "";
  let offset = 0n;
  async function* typing() {
    yield Buffer.from("echo");
    await until(() => seen.includes("echo"));
    yield Buffer.from("\r");
  }
  for await (const chunk of world.agents.attachConsole(
    hostId,
    { machineId: "vm-1", offset: 0n },
    typing(),
    leave.signal,
  )) {
    seen += Buffer.from(chunk.output).toString();
    offset = chunk.offset;
    if (seen.endsWith("~# ")) break;
  }
  t.match(seen, /started\r\necho\r\nvm-1:~# $/);
  t.equal(offset, BigInt(seen.length), "the offset counts every byte");
});

await t.test("kill -9: taken up within seconds, as it was", async (t) => {
  const before = await ensure("vm-1", 3, {
    forwards: [
      {
        $typeName: "skerry.agent.v1.PortForward",
        protocol: "tcp",
        guestPort: 80,
        hostPort: 0,
        hostAddress: "",
      },
    ],
  });
  await agent.kill();
  await connected(false);
  world.reports.length = 0;
  await agent.start();
  await until(full);
  const after = reported("vm-1");
  t.equal(after?.state, RUNNING);
  t.same(
    after?.startedAt && timestampDate(after.startedAt),
    before.startedAt && timestampDate(before.startedAt),
  );
  t.same(after?.forwards, before.forwards, "the chosen port was kept");
  t.ok((after?.seq ?? 0n) > before.seq);
  t.equal(await reasonOf(ensure("vm-1", 2)), "FENCE_STALE", "the fence was kept");
});

await t.test("the control plane is away: machines are looked after, and it hears of it later", async (t) => {
  const { port } = world.gateway;
  await world.gateway[Symbol.asyncDispose]();
  await writeFile(knobsFile, JSON.stringify({ crash: ["vm-1"] }));
  await until(async () => (await readFile(agent.logFile, "utf8")).includes("machine.ended"));
  world.reports.length = 0;
  await world.startGateway(port);
  await until(() => reported("vm-1")?.crashes === 1n && reported("vm-1")?.state === RUNNING);
  t.ok(full());
});

await t.test("a clean stop leaves machines, or turns them off until the next start", async (t) => {
  const before = reported("vm-1")?.startedAt;
  await agent.stop();
  world.reports.length = 0;
  await agent.start({ SKERRY_AGENT_STOP_MACHINES: "true" });
  await until(full);
  t.same(reported("vm-1")?.startedAt, before, "it ran on");
  await ensure("vm-off", 1, { power: Power.OFF });
  await agent.stop();
  const state = await readFile(join(data, "machines", "vm-1", "fake.json"), "utf8");
  t.notMatch(state, /startedAtMs/, "it was turned off");
  world.reports.length = 0;
  await agent.start();
  await until(() => full() && reported("vm-1")?.state === RUNNING);
  t.notSame(reported("vm-1")?.startedAt, before, "and on again");
  t.equal(reported("vm-off")?.state, STOPPED);
});

await t.test("one agent per folder", async (t) => {
  const [program, ...args] = nodeProgram("agent/main");
  const second = promisify(execFile)(program, args, { cwd: root, env: environment });
  const failed = await second.catch((error: { stderr: string }) => error.stderr);
  t.match(failed, /AGENT_ALREADY_RUNNING/);
  t.equal(
    await world.agents.removeMachine(
      hostId,
      { id: "vm-1", fence: { epoch: 2n, generation: 4n }, waitMs: 5000 },
      signal,
    ),
    true,
  );
  await until(() => world.reports.some(({ report }) => report.removed.some(({ id }) => id === "vm-1")));
});

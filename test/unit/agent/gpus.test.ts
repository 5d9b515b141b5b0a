/** GPUs for containers: what is read of a host's CDI specs, and who gets which. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { silentLogger } from "#kernel/log.ts";
import {
  type Machine,
  MachineSpecSchema,
  MachineState,
  Power,
  RestartPolicy,
} from "#gen/skerry/agent/v1/machine_pb.js";
import { ContainerSchema } from "#gen/skerry/agent/v1/workload_pb.js";
import { distinct, parseCdiSpec, readCdiDevices } from "#agent/containers/cdi.ts";
import { ContainerDriver } from "#agent/containers/driver.ts";
import { FakeEngine } from "#agent/containers/fake/engine.ts";
import { findGpuModel } from "#agent/containers/gpu-model.ts";
import { Gpus } from "#agent/containers/gpus.ts";
import { ChangeFeed } from "#agent/machines/change-feed.ts";
import { Ledger } from "#agent/machines/ledger.ts";
import { defaultTiming } from "#agent/machines/machine-deps.ts";
import { MachineManager } from "#agent/machines/manager.ts";
import { recoverMachines } from "#agent/machines/recover.ts";
import { until } from "#test/support/until.ts";

const never = new AbortController().signal;
const deviceOf = (name: string, ...nodes: string[]) => ({
  name,
  containerEdits: nodes.length > 0 ? { deviceNodes: nodes.map((path) => ({ path })) } : {},
});
const specOf = (...devices: object[]) => ({ cdiVersion: "0.5.0", kind: "skerry.test/gpu", devices });
const named = (devices: readonly { readonly name: string }[]) => devices.map(({ name }) => name);

await t.test("a spec is read whole or not at all", async (t) => {
  const spec = {
    ...specOf({
      ...deviceOf("0", "/dev/a", "/dev/a"),
      annotations: { "skerry.test/model": "Model X" },
    }),
    containerEdits: { env: ["A=b"] },
  };
  const parsed = { name: "skerry.test/gpu=0", vendor: "skerry.test", model: "Model X", nodes: ["/dev/a"] };
  t.same(parseCdiSpec(spec, "gpu"), [parsed]);
  t.same(parseCdiSpec(spec, "nic"), [], "of another class");
  const elsewhere = specOf({
    name: "0",
    containerEdits: { deviceNodes: [{ path: "/dev/x", hostPath: "/dev/y" }] },
  });
  t.same(parseCdiSpec(elsewhere, "gpu")[0]?.nodes, ["/dev/y"], "the host's node, not the container's");
  for (const [broken, why] of [
    [null, /must be an object/],
    [{ ...spec, cdiVersion: 1 }, /no cdiVersion/],
    [{ ...spec, kind: "gpu" }, /vendor\/class/],
    [{ ...spec, devices: {} }, /list of devices/],
    [specOf({ name: "a=b", containerEdits: {} }), /no name/],
    [specOf({ name: "0" }), /containerEdits of 0/],
    [specOf({ name: "0", containerEdits: { deviceNodes: [{}] } }), /no path/],
    [specOf(deviceOf("0"), deviceOf("0")), /one name/],
  ] as const)
    t.throws(() => parseCdiSpec(broken, "gpu"), why);
});

await t.test("names that stand for several, or for one that has another name, are not counted", async (t) => {
  const count = (...devices: object[]) =>
    named(
      distinct(parseCdiSpec(specOf(...devices), "gpu").map((device) => ({ ...device, digest: "1" }))),
    ).map((name) => name.slice("skerry.test/gpu=".length));
  const [first, second] = [deviceOf("0", "/dev/0", "/dev/ctl"), deviceOf("1", "/dev/1", "/dev/ctl")];
  const all = deviceOf("all", "/dev/0", "/dev/1", "/dev/ctl");
  t.same(count(all, first, second), ["0", "1"]);
  t.same(count(first, deviceOf("GPU-8f2a", "/dev/ctl", "/dev/0")), ["0"], "its number and its serial number");
  t.same(count(deviceOf("all", "/dev/dxg")), ["all"], "where there is only all of them, that is one");
  t.same(count(deviceOf("all", "/dev/0"), deviceOf("0", "/dev/0")), ["0"], "of one, all of them is that one");
  t.same(
    count(deviceOf("0"), deviceOf("1"), deviceOf("all")),
    ["0", "1"],
    "without nodes they go by their names",
  );
  t.same(
    count(deviceOf("0:0", "/dev/0", "/dev/c1"), deviceOf("0:1", "/dev/0", "/dev/c2")),
    ["0:0", "0:1"],
    "parts",
  );
  t.same(count(deviceOf("pair", "/dev/0", "/dev/1"), deviceOf("0", "/dev/0")), ["0"], "none is given twice");
});

await t.test("files: JSON and YAML, the later folder first, broken ones named and passed over", async (t) => {
  const yaml = `cdiVersion: 0.6.0\nkind: skerry.test/gpu\ndevices:\n  - name: y\n    containerEdits: {env: [Y=1]}\n`;
  const early = t.testdir({
    "a.json": JSON.stringify(specOf(deviceOf("0", "/dev/null"), deviceOf("gone", "/nowhere/gpu"))),
    "b.yaml": yaml,
    "broken.json": "{",
    "notes.txt": "nothing",
    "one.json": JSON.stringify({ ...specOf(deviceOf("x")), kind: "skerry.test/nic" }),
  });
  const { devices, problems } = await readCdiDevices([early, "/nowhere"], "gpu");
  t.same(named(devices), ["skerry.test/gpu=0", "skerry.test/gpu=y"]);
  t.equal(problems.length, 2);
  t.match(problems[0], /^broken\.json: /);
  t.equal(problems[1], "skerry.test/gpu=gone: the host has no /nowhere/gpu");

  const late = join(early, "late");
  await mkdir(late);
  await writeFile(join(late, "a.json"), JSON.stringify(specOf(deviceOf("0", "/dev/zero"))));
  const over = await readCdiDevices([early, late], "gpu");
  t.same(over.devices.find(({ name }) => name.endsWith("=0"))?.nodes, ["/dev/zero"]);
  await writeFile(join(late, "b.json"), JSON.stringify(specOf(deviceOf("0", "/dev/full"))));
  const twice = await readCdiDevices([early, late], "gpu");
  t.same(named(twice.devices), ["skerry.test/gpu=y"], "two files of one folder: neither is taken");
  t.match(twice.problems.join(), /gpu=0 is in two files/);
});

await t.test("models, as drivers tell them", async (t) => {
  const root = t.testdir({
    proc: {
      driver: {
        nvidia: {
          gpus: {
            "0000:01:00.0": { information: "Model: \t\t NVIDIA T4\nDevice Minor: \t 0\n" },
            "0000:02:00.0": { information: "Model: \t\t NVIDIA L4\nDevice Minor: \t 1\n" },
          },
        },
      },
    },
    sys: {
      class: {
        drm: {
          card0: { device: { product_name: "Radeon Pro W6800\n" } },
          renderD129: { device: { vendor: "0x8086\n", device: "0x56c0\n" } },
        },
      },
    },
  });
  const model = (...nodes: string[]) =>
    findGpuModel(nodes, { proc: join(root, "proc"), sys: join(root, "sys") });
  t.equal(await model("/dev/nvidiactl", "/dev/nvidia1"), "NVIDIA L4");
  t.equal(await model("/dev/kfd", "/dev/dri/card0"), "Radeon Pro W6800");
  t.equal(await model("/dev/dri/renderD129"), "PCI 8086:56c0");
  t.equal(await model("/dev/null"), "");
});

await t.test("what the engine does not hand out is not counted; what changes is told once", async (t) => {
  const folder = t.testdir({ "a.json": JSON.stringify(specOf(deviceOf("0"), deviceOf("bad"))) });
  const asked: string[] = [];
  const engine = {
    refusesDevice: (device: string) => {
      asked.push(device);
      return Promise.resolve(device.endsWith("=bad") ? "it knows no such device" : undefined);
    },
  };
  const gpus = new Gpus({ folders: [folder], engine, log: silentLogger, lookEveryMs: 5 });
  const told: (readonly string[])[] = [];
  const stop = new AbortController();
  const following = gpus.follow(
    (reading) => told.push(reading.gpus.map(({ device }) => device)),
    stop.signal,
  );
  await until(() => told.length === 1);
  t.same(gpus.reading, {
    gpus: [{ device: "skerry.test/gpu=0", vendor: "skerry.test", model: "" }],
    problems: ["skerry.test/gpu=bad: it knows no such device"],
  });
  await gpus.read(never);
  t.same(asked.length, 2, "each is tried once");
  await writeFile(join(folder, "b.json"), JSON.stringify(specOf(deviceOf("1"))));
  await until(() => told.length === 2);
  t.same(told[1], ["skerry.test/gpu=0", "skerry.test/gpu=1"]);
  stop.abort();
  await following;
});

/** A host with GPUs; another one on the same folder is the agent after a kill. */
async function startHost(directory: string) {
  const stop = new AbortController();
  const engine = new FakeEngine({ stateDirectory: join(directory, "engine") });
  const gpus = new Gpus({ folders: [join(directory, "cdi")], engine, log: silentLogger });
  const driver = new ContainerDriver({ engine, gpus, log: silentLogger });
  const ledger = await Ledger.open({ directory: join(directory, "ledger"), log: silentLogger });
  const deps = {
    ...{ driver, ledger, devices: gpus, changes: new ChangeFeed(), log: silentLogger, now: Date.now },
    images: { ensure: () => Promise.resolve({ type: "container", reference: "any" } as const) },
    timing: { ...defaultTiming, backoff: { baseMs: 5, capMs: 10 }, attempts: 2 },
    directoryOf: (id: string) => join(directory, "machines", id),
  };
  const manager = new MachineManager(deps);
  const running = manager.run(stop.signal);
  await recoverMachines(manager, deps, never);
  const fenceOf = (generation: number) => ({ epoch: 1n, generation: BigInt(generation) });
  return {
    manager,
    engine,
    gpus,
    setDevices: (...names: string[]) =>
      writeFile(
        join(directory, "cdi/spec.json"),
        JSON.stringify(specOf(...names.map((name) => deviceOf(name)))),
      ),
    ensure(id: string, generation = 1, change: object = {}): Promise<Machine> {
      const spec = create(MachineSpecSchema, {
        ...{ name: id, vcpus: 1, memoryBytes: 1n << 20n, diskBytes: 1n, power: Power.ON },
        image: { id: "img", name: "any" },
        container: create(ContainerSchema, { command: ["serve"], gpus: 1 }),
        ...change,
      });
      return manager.ensure({ id, fence: fenceOf(generation), spec, waitMs: 5_000 }, never);
    },
    remove: (id: string, generation: number) =>
      manager.remove({ id, fence: fenceOf(generation), waitMs: 5_000 }, never),
    async kill(pullPlugs = false) {
      stop.abort();
      await manager.close({ pullPlugs }, never);
      await running;
    },
  };
}

const gpusOf = (machine: Machine) => machine.container?.gpus.map((device) => device.split("=")[1]);

await t.test(
  "each is given to one, for as long as that is there, whatever becomes of the agent",
  async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "skerry-gpus-"));
    t.teardown(() => rm(directory, { recursive: true }));
    await mkdir(join(directory, "cdi"));
    let host = await startHost(directory);
    await host.setDevices("0", "1", "2");
    const many = await Promise.all(["a", "b", "c", "d"].map((id) => host.ensure(id)));
    const ran = many.filter(({ state }) => state === MachineState.RUNNING);
    t.same(ran.flatMap(gpusOf).sort(), ["0", "1", "2"], "all at once: each has one of its own");
    const [late] = many.filter(({ state }) => state === MachineState.FAILED);
    t.match(late, {
      reason: "GPU_UNAVAILABLE",
      message: /of the host's 3 GPUs 0 are free, and it needs 1/,
    });
    const [first, second] = ran;
    if (!first || !second || !late) throw new Error("they do not run");

    await host.kill();
    host = await startHost(directory);
    t.same(gpusOf(await host.ensure(first.id)), gpusOf(first), "after a kill each has what it had");
    t.equal((await host.ensure(late.id, 2)).state, MachineState.FAILED, "and nothing is free");
    await host.ensure(second.id, 2, { power: Power.OFF });
    t.equal((await host.ensure(late.id, 3)).state, MachineState.FAILED, "one that is off keeps its own");
    await host.remove(second.id, 3);
    t.same(gpusOf(await host.ensure(late.id, 4)), gpusOf(second), "one that is gone does not");

    await host.kill();
    await writeFile(join(directory, "ledger", `${first.id}.intent`), "damaged");
    host = await startHost(directory);
    const again = await host.ensure("e");
    t.equal(again.reason, "GPU_UNAVAILABLE", "nor is it given away when the record of its owner is damaged");
    await host.kill();
  },
);

await t.test("one that is gone is told of, and the next start takes another", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "skerry-gpus-"));
  t.teardown(() => rm(directory, { recursive: true }));
  await mkdir(join(directory, "cdi"));
  const host = await startHost(directory);
  const changed = async (...names: string[]) => {
    await host.setDevices(...names);
    await host.gpus.read(never);
    host.manager.followDevices();
  };
  await host.setDevices("0");
  t.same(gpusOf(await host.ensure("a")), ["0"]);
  await changed();
  const missing = () => host.manager.get("a").container?.missingGpus;
  await until(() => missing()?.length === 1);
  t.equal(host.manager.get("a").state, MachineState.RUNNING, "it is left to run");
  const stuck = await host.ensure("a", 2, { restarts: 1n });
  t.match(stuck, { state: MachineState.FAILED, message: /no longer has skerry\.test\/gpu=0/ });
  t.equal(
    (await host.ensure("a", 3, { power: Power.OFF, restarts: 1n })).state,
    MachineState.STOPPED,
    "it can be stopped",
  );
  await host.ensure("a", 4, { restarts: 1n });
  await changed("1");
  await until(() => host.manager.get("a").state === MachineState.RUNNING);
  t.same(gpusOf(host.manager.get("a")), ["1"], "it goes on by itself when there is one again");
  t.same(missing(), []);
  await host.kill();
});

await t.test("what ends while the agent is away is answered by its restart policy", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "skerry-unseen-"));
  t.teardown(() => rm(directory, { recursive: true }));
  let host = await startHost(directory);
  const container = create(ContainerSchema, { command: ["serve"] });
  const job = { container, restartPolicy: RestartPolicy.ON_FAILURE };
  for (const id of ["done", "failed"]) await host.ensure(id, 1, job);
  await host.ensure("service", 1, { container, restartPolicy: RestartPolicy.ALWAYS });
  await host.kill();
  for (const id of ["done", "service"]) await host.engine.stop(id); // by itself, as far as anybody knows
  await host.engine.kill("failed");
  host = await startHost(directory);
  const stateOf = (id: string) => host.manager.get(id).state;
  await until(() => host.manager.get("done").reason === "GUEST_POWERED_OFF");
  t.equal(stateOf("done"), MachineState.STOPPED, "a job that is done is not done again");
  await until(
    () => stateOf("failed") === MachineState.RUNNING && stateOf("service") === MachineState.RUNNING,
  );
  t.equal(host.manager.get("failed").crashes, 1n);

  await host.kill(true);
  host = await startHost(directory);
  await until(
    () => stateOf("failed") === MachineState.RUNNING && stateOf("service") === MachineState.RUNNING,
  );
  t.equal(host.manager.get("failed").crashes, 1n, "what the agent itself has ended has not failed");
  t.equal(stateOf("done"), MachineState.STOPPED);
  await host.kill();
});

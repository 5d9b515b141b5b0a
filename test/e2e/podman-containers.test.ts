/** Containers on podman: the cases that every engine passes, and what only a real one can show. */
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { MachineSpecSchema, PortForwardSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { ContainerSchema } from "#gen/skerry/agent/v1/workload_pb.js";
import { mkdir, rm, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { silentLogger } from "#kernel/log.ts";
import { containerConformance } from "#agent/containers/conformance.ts";
import { logPathOf } from "#agent/containers/driver.ts";
import { Gpus } from "#agent/containers/gpus.ts";
import { readLog } from "#agent/containers/log.ts";
import { filesOf } from "#agent/containers/podman/service.ts";
import type { MachinePlan } from "#agent/drivers/driver.ts";
import { pickPort } from "#test/support/ports.ts";
import { makePodmanBench } from "#test/support/podman-bench.ts";
import { findProcessesOf } from "#test/support/processes.ts";
import { until } from "#test/support/until.ts";

await t.test("conformance", (t) => containerConformance(t, { make: makePodmanBench, limitMs: 60_000 }));

await t.test("limits, ports and variables are real", async (t) => {
  await using bench = await makePodmanBench();
  const { driver, image, directory } = bench;
  const signal = AbortSignal.timeout(60_000);
  const port = await pickPort();
  const plan = (
    id: string,
    command: string[],
    forwards = [] as { guestPort: number; hostPort: number }[],
  ) => {
    const spec = create(MachineSpecSchema, {
      ...{ hostname: id, vcpus: 1, memoryBytes: 32n * 1024n ** 2n, diskBytes: 1n, power: Power.ON },
      forwards: forwards.map((forward) => create(PortForwardSchema, { protocol: "tcp", ...forward })),
      container: create(ContainerSchema, { command, environment: { GREETING: "hello" } }),
    });
    return { id, spec, image, directory: join(directory, id) } satisfies MachinePlan;
  };
  const web = plan("wl-web", [], [{ guestPort: 8080, hostPort: port }]);
  const { forwards } = await driver.ensure(web, signal);
  t.same(forwards, [{ protocol: "tcp", guestPort: 8080, hostPort: port, hostAddress: "127.0.0.1" }]);
  // The port is open before the program in the container listens.
  const look = async () => {
    const page = await fetch(`http://127.0.0.1:${String(port)}/`, { signal: AbortSignal.timeout(2000) });
    return (await page.text()) === "served from a container\n";
  };
  await until(() => look().catch(() => false), 20_000, 100);
  t.pass("the image's own program serves through the port");

  const greedy = plan("wl-greedy", ["sh", "-c", 'echo "$GREETING"; x=a; while :; do x=$x$x; done']);
  await driver.ensure(greedy, signal);
  await until(async () => (await driver.inspect(greedy.id))?.container?.exited === true, 20_000, 100);
  t.equal((await driver.inspect(greedy.id))?.container?.exitCode, 137, "what takes too much memory is ended");
  const [line] = await readLog(logPathOf(greedy.directory), 1);
  t.same([line?.stream, line?.text], ["stdout", "hello"], "its variables were there");
  await Promise.all([web, greedy].map(({ id, directory: own }) => driver.remove(id, own, signal)));
});

await t.test("an agent that stops while it tries a container leaves none", async (t) => {
  await using bench = await makePodmanBench();
  const stop = new AbortController();
  const tried = bench.driver.probe(stop.signal).catch((thrown: unknown) => thrown);
  const running = () => findProcessesOf(filesOf(bench.stateDirectory).run);
  const isMade = async () => (await running()).some(({ commandLine }) => commandLine.includes("conmon"));
  await until(isMade, 20_000, 5);
  stop.abort();
  await tried;
  await bench.driver[Symbol.asyncDispose]();
  await until(async () => (await running()).length === 0, 5_000).catch(() => undefined); // told below
  t.same(await running(), []);
});

await t.test("a GPU of a CDI spec is in the container", async (t) => {
  // podman before 5 looks in its own folders only: the names are this test's.
  const vendor = `skerry-${String(process.pid)}.test`;
  const folder = "/var/run/cdi";
  const [path, newPath] = [join(folder, `${vendor}.json`), join(folder, `${vendor}-new.json`)];
  const isOurs = (await mkdir(folder, { recursive: true })) !== undefined;
  t.teardown(async () => {
    for (const file of [path, newPath]) await rm(file, { force: true });
    if (isOurs) await rmdir(folder).catch(() => undefined); // somebody else uses it by now
  });
  const containerEdits = {
    deviceNodes: [{ path: "/dev/skerry-gpu0", hostPath: "/dev/null", type: "c", major: 1, minor: 3 }],
    env: ["SKERRY_GPU=zero"],
  };
  const devices = [{ name: "0", containerEdits }];
  await writeFile(path, JSON.stringify({ cdiVersion: "0.5.0", kind: `${vendor}/gpu`, devices }));
  const mine = (names: readonly string[]) => names.filter((name) => name.includes(vendor));

  await using bench = await makePodmanBench();
  const { driver, engine, image, directory } = bench;
  const signal = AbortSignal.timeout(30_000);
  const gpus = new Gpus({ folders: [folder], engine, log: silentLogger });
  t.same(mine(await gpus.read(signal)), [`${vendor}/gpu=0`], "podman hands it out");
  const newer = { cdiVersion: "99.0.0", kind: `${vendor}-new/gpu`, devices };
  await writeFile(newPath, JSON.stringify(newer));
  t.same(mine(await gpus.read(signal)), [`${vendor}/gpu=0`], "what it does not understand is not counted");
  t.match(mine(gpus.reading.problems), [/-new\/gpu=0: podman did not do it: unresolvable/]);

  const command = [
    "sh",
    "-c",
    'echo to-gpu > /dev/skerry-gpu0 && echo "$SKERRY_GPU"; test -c /dev/skerry-gpu0',
  ];
  const spec = create(MachineSpecSchema, {
    ...{ hostname: "gpu", vcpus: 1, memoryBytes: 32n * 1024n ** 2n, diskBytes: 1n, power: Power.ON },
    container: create(ContainerSchema, { command, gpus: 1 }),
  });
  const plan = {
    id: "wl-gpu",
    spec,
    image,
    directory: join(directory, "wl-gpu"),
    devices: [`${vendor}/gpu=0`],
  };
  await driver.ensure(plan, signal);
  await until(async () => (await driver.inspect(plan.id))?.container?.exited === true, 20_000, 100);
  t.equal(
    (await driver.inspect(plan.id))?.container?.exitCode,
    0,
    "the node is there, and may be written to",
  );
  t.equal((await readLog(logPathOf(plan.directory), 1))[0]?.text, "zero", "with what the spec adds");
  await driver.remove(plan.id, plan.directory, signal);
});

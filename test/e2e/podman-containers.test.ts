/** Containers on podman: the cases that every engine passes, and what only a real one can show. */
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { MachineSpecSchema, PortForwardSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { ContainerSchema } from "#gen/skerry/agent/v1/workload_pb.js";
import { join } from "node:path";
import { containerConformance } from "#agent/containers/conformance.ts";
import { logPathOf } from "#agent/containers/driver.ts";
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
  const page = await fetch(`http://127.0.0.1:${String(port)}/`);
  t.equal(await page.text(), "served from a container\n", "the image's own program serves through the port");

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

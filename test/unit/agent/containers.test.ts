import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { silentLogger } from "#kernel/log.ts";
import { ImageSchema, ImageType } from "#gen/skerry/agent/v1/machine_pb.js";
import { type ContainerBench, containerConformance } from "#agent/containers/conformance.ts";
import { ContainerDriver } from "#agent/containers/driver.ts";
import { FakeEngine } from "#agent/containers/fake/engine.ts";
import { judgeHealth } from "#agent/containers/health.ts";
import { ContainerImages, qualified, registryOf } from "#agent/containers/images.ts";
import { parseLog, readLog } from "#agent/containers/log.ts";
import { toPodmanSpec } from "#agent/containers/podman/container-spec.ts";
import { reasonOf } from "#test/support/reason-of.ts";

async function makeBench(): Promise<ContainerBench> {
  const directory = await mkdtemp(join(tmpdir(), "skerry-containers-"));
  const stateDirectory = join(directory, "engine");
  await mkdir(stateDirectory);
  let boots = 1;
  let engine: FakeEngine;
  const start = () => {
    engine = new FakeEngine({ stateDirectory, bootId: String(boots) });
    return new ContainerDriver({ engine, log: silentLogger });
  };
  return {
    driver: start(),
    image: { type: "container", reference: "any" },
    directory,
    lasting: ["serve"],
    ending: ["exit", "3"],
    crash: (id) => engine.kill(id),
    successor: async () => start(),
    afterPowerCut: async () => {
      boots++;
      return start();
    },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  };
}

await t.test("conformance", (t) => containerConformance(t, { make: makeBench, limitMs: 60_000 }));

await t.test("what checks make of a container's health", async (t) => {
  const limits = { retries: 2, startPeriodSeconds: 10 };
  const starting = { health: "starting", failures: 0 } as const;
  t.same(judgeHealth(starting, true, 0, limits), { health: "healthy", failures: 0 });
  t.same(judgeHealth(starting, false, 9_000, limits), starting, "failures soon after the start do not count");
  t.same(judgeHealth(starting, false, 11_000, limits), { health: "starting", failures: 1 });
  const once = { health: "healthy", failures: 1 } as const;
  t.same(judgeHealth(once, true, 60_000, limits), { health: "healthy", failures: 0 }, "a success forgets");
  t.same(judgeHealth(once, false, 60_000, limits), { health: "unhealthy", failures: 2 });
  const none = { retries: 0, startPeriodSeconds: 0 };
  t.equal(judgeHealth(starting, false, 1, none).health, "unhealthy", "no retries: the first failure counts");
});

await t.test("logs", async (t) => {
  const text = [
    "ut off",
    "2026-11-22T08:00:00.5Z stdout F one",
    "2026-11-22T08:00:01Z stdout P two, ",
    "2026-11-22T08:00:02Z stderr F aside",
    "2026-11-22T08:00:03Z stdout F in parts",
    "2026-11-22T08:00:04Z stdout P unfinished",
    "",
  ].join("\n");
  t.same(
    parseLog(text).map(({ stream, text: words }) => [stream, words]),
    [
      ["stdout", "one"],
      ["stderr", "aside"],
      ["stdout", "two, in parts"],
      ["stdout", "unfinished"],
    ],
  );
  const directory = t.testdir({});
  const path = join(directory, "container.log");
  t.same(await readLog(path, 5), [], "nothing was printed");
  await writeFile(path, text);
  t.same(
    (await readLog(path, 1)).map((line) => line.text),
    ["unfinished"],
    "the last lines",
  );
});

await t.test("references of images", async (t) => {
  for (const [reference, registry, whole] of [
    ["nginx", "docker.io", "docker.io/library/nginx"],
    ["novacron/ai-model:latest", "docker.io", "docker.io/novacron/ai-model:latest"],
    ["ghcr.io/a/b@sha256:0", "ghcr.io", "ghcr.io/a/b@sha256:0"],
    ["localhost/x", "localhost", "localhost/x"],
    ["10.0.0.1:5000/x", "10.0.0.1:5000", "10.0.0.1:5000/x"],
  ] as const) {
    t.equal(registryOf(reference), registry);
    t.equal(qualified(reference), whole);
  }
});

await t.test("registries that are not public need the operator's word", async (t) => {
  const images = (change: { registries?: string[]; allowedRanges?: string[] }) =>
    new ContainerImages({
      files: { ensure: () => Promise.reject(new Error("no files")) },
      engine: { pull: (reference) => Promise.resolve(reference), load: () => Promise.reject(new Error()) },
      ...{ registries: [], allowedRanges: [], ...change },
    });
  const image = create(ImageSchema, { name: "10.1.2.3:5000/x", type: ImageType.CONTAINER });
  const pull = (source: ContainerImages) =>
    source.ensure(image, () => undefined, new AbortController().signal);
  t.equal(await reasonOf(pull(images({}))), "REGISTRY_FORBIDDEN");
  const found = { type: "container", reference: "10.1.2.3:5000/x" };
  t.same(await pull(images({ registries: ["10.1.2.3:5000"] })), found, "by name");
  t.same(await pull(images({ allowedRanges: ["10.0.0.0/8"] })), found, "or by address");
});

await t.test("what podman is asked for", async (t) => {
  const spec = toPodmanSpec("wl-1", "shape", {
    image: "sha256:1",
    command: [],
    environment: { A: "b" },
    hostname: "web",
    cpus: 2,
    memoryBytes: 1024,
    ports: [{ protocol: "tcp", containerPort: 80, hostPort: 8080, hostAddress: "127.0.0.1" }],
    health: ["true"],
    devices: ["vendor.com/gpu=0"],
    logPath: "/log",
  });
  t.same(spec.devices, [{ path: "vendor.com/gpu=0" }]);
  t.notOk("command" in spec, "without one the image's own is run");
  t.same(spec.resource_limits, {
    memory: { limit: 1024 },
    cpu: { quota: 200_000, period: 100_000 },
  });
  t.same(spec.portmappings, [{ protocol: "tcp", container_port: 80, host_port: 8080, host_ip: "127.0.0.1" }]);
  t.match(spec.healthconfig, { Test: ["CMD", "true"], Interval: 0 });
});

import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { silentLogger } from "#kernel/log.ts";
import { sleep } from "#kernel/retry.ts";
import { MachineSpecSchema, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import type { LocalImage, MachinePlan } from "#agent/drivers/driver.ts";
import { type Bench, driverConformance } from "#agent/drivers/conformance.ts";
import { moveConformance } from "#agent/drivers/conformance-move.ts";
import { createFakeDriver } from "#agent/drivers/fake/driver.ts";
import { parseKnobs } from "#agent/drivers/fake/knobs.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const image: LocalImage = { type: "disk", path: "/nowhere", format: "raw" };

async function makeBench(): Promise<Bench> {
  const directory = await mkdtemp(join(tmpdir(), "skerry-fake-"));
  let current = await createFakeDriver({ log: silentLogger });
  return {
    driver: current,
    image,
    directory,
    successor: async () => (current = await createFakeDriver({ log: silentLogger })),
    crash: (id) => current.end(id, false),
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  };
}

await t.test("conformance", (t) => driverConformance(t, { make: makeBench, limitMs: 60_000 }));
await t.test("conformance of moves", (t) => moveConformance(t, { make: makeBench, limitMs: 60_000 }));

function plan(directory: string, id: string): MachinePlan {
  const spec = create(MachineSpecSchema, {
    vcpus: 1,
    memoryBytes: 2n ** 27n,
    diskBytes: 2n ** 26n,
    power: Power.ON,
  });
  return { id, spec, image, directory: join(directory, id) };
}

const signal = new AbortController().signal;

await t.test("knobs set in code", async (t) => {
  const directory = t.testdir();
  const driver = await createFakeDriver({ log: silentLogger });

  driver.set({
    failures: [
      { call: "ensure", when: "before", times: 2, code: "unavailable", reason: "TOLD_TO" },
      { call: "ensure", when: "after", times: 1, code: "internal", reason: "REPLY_LOST" },
    ],
  });
  for (let i = 0; i < 2; i++) t.equal(await reasonOf(driver.ensure(plan(directory, "a"), signal)), "TOLD_TO");
  t.equal(await driver.inspect("a"), undefined, "failing before leaves no machine");
  t.equal(await reasonOf(driver.ensure(plan(directory, "a"), signal)), "REPLY_LOST");
  t.equal((await driver.inspect("a"))?.state, "running", "failing after has had its effect");
  await driver.ensure(plan(directory, "a"), signal);

  driver.set({ stepping: "manual" });
  const held = [driver.ensure(plan(directory, "b"), signal), driver.ensure(plan(directory, "c"), signal)];
  await until(() => driver.waiting === 2);
  t.equal(driver.step(), true);
  await held[0];
  t.equal(await driver.inspect("c"), undefined, "one step lets one through");
  const abort = new AbortController();
  const dropped = driver.ensure(plan(directory, "d"), abort.signal);
  await until(() => driver.waiting === 2);
  abort.abort(new Error("changed my mind"));
  t.equal(await reasonOf(dropped), "CANCELLED");
  driver.set({ stepping: "auto" });
  await held[1];
  t.equal(driver.step(), false, "nobody waits any more");

  driver.set({ lose: ["b"] });
  await until(async () => (await driver.inspect("b")) === undefined);
});

await t.test("knobs from a file that changes under a running driver", async (t) => {
  const directory = t.testdir({ "knobs.json": "{}" });
  const knobsFile = join(directory, "knobs.json");
  const driver = await createFakeDriver({ log: silentLogger, knobsFile });
  await driver.ensure(plan(directory, "a"), signal);
  await writeFile(knobsFile, JSON.stringify({ crash: ["*"] }));
  await until(async () => (await driver.inspect("a"))?.state === "stopped");
  await driver.ensure(plan(directory, "a"), signal);
  // The watcher hears of a change, but nothing was written.
  await chmod(knobsFile, 0o600);
  await sleep(100);
  t.equal((await driver.inspect("a"))?.state, "running", "what is written once strikes once");
  await driver[Symbol.asyncDispose]();
  for (const text of [
    "[]",
    "nonsense",
    '{"hold":["sleep"]}',
    '{"tickMs":-1}',
    '{"stepping":"jumpy"}',
    '{"nonesuch":1}',
    '{"failures":[{}]}',
  ]) {
    t.equal(await reasonOf(() => parseKnobs(text)), "FAKE_KNOBS_INVALID", text);
  }
  await t.rejects(createFakeDriver({ log: silentLogger, knobsFile: join(directory, "absent.json") }));
});

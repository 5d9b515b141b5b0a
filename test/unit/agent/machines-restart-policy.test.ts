/** What becomes of a machine that ends though nobody asked for it: it rests, is restarted, or has crashed too often. */
import t from "tap";
import { MachineState, RestartPolicy } from "#gen/skerry/agent/v1/machine_pb.js";
import { defaultTiming } from "#agent/machines/machine-deps.ts";
import { decideRestart } from "#agent/machines/restart-policy.ts";
import { LoneHost } from "#test/support/lone-host.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, STOPPED, FAILED } = MachineState;

await t.test("restart policy", async (t) => {
  await using host = await LoneHost.start({
    timing: {
      ...defaultTiming,
      backoff: { baseMs: 5, capMs: 5 },
      restarts: { crashes: 2, windowMs: 60_000 },
    },
  });
  const view = (id: string) => host.manager.get(id);
  await host.ensure("vm-off", 1);
  await host.driver.end("vm-off", true);
  await until(() => view("vm-off").reason === "GUEST_POWERED_OFF");
  t.equal(view("vm-off").state, STOPPED, "on-failure: a guest that powers off stays off");
  host.epoch = 2n;
  t.equal((await host.ensure("vm-off", 1)).state, STOPPED, "the same intent again does not start it");
  t.equal((await host.ensure("vm-off", 2)).state, RUNNING, "a new one does");

  await host.ensure("vm-always", 1, { restartPolicy: RestartPolicy.ALWAYS });
  await host.driver.end("vm-always", true);
  await until(() => view("vm-always").crashes === 1n && view("vm-always").state === RUNNING);

  await host.ensure("vm-never", 1, { restartPolicy: RestartPolicy.NEVER });
  await host.driver.end("vm-never", false);
  await until(() => view("vm-never").reason === "CRASHED");
  t.equal(view("vm-never").state, STOPPED);

  await host.ensure("vm-loop", 1);
  for (const crashes of [1n, 2n]) {
    await host.driver.end("vm-loop", false);
    await until(() => view("vm-loop").crashes === crashes && view("vm-loop").state === RUNNING);
  }
  await host.driver.end("vm-loop", false);
  await until(() => view("vm-loop").reason === "CRASH_LOOP");
  t.equal(view("vm-loop").state, FAILED);
});

await t.test("decisions about an end that nobody asked for", async (t) => {
  const limits = { crashes: 2, windowMs: 100 };
  const { ALWAYS, ON_FAILURE, NEVER, UNSPECIFIED } = RestartPolicy;
  const rows: [RestartPolicy, boolean, number[], object][] = [
    [NEVER, false, [], { do: "rest", reason: "CRASHED" }],
    [NEVER, true, [], { do: "rest", reason: "GUEST_POWERED_OFF" }],
    [ON_FAILURE, true, [], { do: "rest", reason: "GUEST_POWERED_OFF" }],
    [UNSPECIFIED, true, [], { do: "rest", reason: "GUEST_POWERED_OFF" }],
    [ON_FAILURE, false, [], { do: "restart", attempt: 0 }],
    [ALWAYS, true, [950], { do: "restart", attempt: 1 }],
    [ALWAYS, true, [850, 950], { do: "restart", attempt: 1 }],
    [ALWAYS, false, [920, 950], { do: "give-up" }],
    [ALWAYS, false, [5000, 6000], { do: "restart", attempt: 0 }],
  ];
  for (const [policy, clean, crashes, wanted] of rows) {
    t.same(
      decideRestart(policy, clean, crashes, 1000, limits),
      wanted,
      JSON.stringify([policy, clean, crashes]),
    );
  }
});

/** What goes wrong with machines and their agent: faults that pass and others, no room, kills and damaged records. */
import { readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { silentLogger } from "#kernel/log.ts";
import { MachineState, Power } from "#gen/skerry/agent/v1/machine_pb.js";
import { FakeDriver } from "#agent/drivers/fake/driver.ts";
import { LoneHost } from "#test/support/lone-host.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const { RUNNING, PAUSED, STOPPED, FAILED, STARTING } = MachineState;
const MiB = 2n ** 20n;
const never = new AbortController().signal;

await t.test("faults that may pass are tried again, the others are told", async (t) => {
  await using host = await LoneHost.start();
  const unavailable = { call: "ensure", when: "before", code: "unavailable", reason: "HOST_BUSY" } as const;
  host.driver.set({ failures: [{ ...unavailable, times: 2 }] });
  t.equal((await host.ensure("vm-1", 1)).state, RUNNING);
  t.ok(
    host.seen.some(
      (change) =>
        "changed" in change && change.changed.state === STARTING && change.changed.reason === "HOST_BUSY",
    ),
    "the state says so meanwhile",
  );
  host.driver.set({ failures: [{ ...unavailable, times: 4 }] });
  const givenUp = await host.ensure("vm-2", 1);
  t.equal(givenUp.state, FAILED);
  t.equal(givenUp.reason, "HOST_BUSY");
  t.equal(givenUp.generationReached, 0n);
  host.driver.set({ failures: [] });
  host.epoch = 2n;
  t.equal((await host.ensure("vm-2", 1)).state, RUNNING, "a new fence tries again");
  t.equal((await host.ensure("vm-2", 2, { diskBytes: 1n })).reason, "DISK_CANNOT_SHRINK");
  host.driver.set({ lose: ["vm-1"] });
  await until(() => host.manager.get("vm-1").reason === "MACHINE_LOST");
  t.equal((await host.ensure("vm-1", 1)).state, FAILED, "a lost disk is not papered over");
  t.equal((await host.ensure("vm-1", 2)).state, RUNNING, "until its owner changes the machine");
});

await t.test("a machine that was here waits until its host has room again", async (t) => {
  await using host = await LoneHost.start();
  const full = { call: "ensure", when: "before", code: "exhausted", reason: "HOST_DISK_FULL" } as const;
  await host.ensure("vm-1", 1);
  host.driver.set({ failures: [{ ...full, times: 10 }] });
  await host.driver.end("vm-1", false);
  await until(() => host.manager.get("vm-1").reason === "HOST_DISK_FULL");
  const waiting = host.manager.get("vm-1");
  t.equal(waiting.state, STARTING);
  t.match(waiting.message, /trying again in/);
  await until(() => host.manager.get("vm-1").state === RUNNING);

  host.driver.set({ failures: [{ ...full, times: 10 }] });
  t.match(
    await host.ensure("vm-1", 2, { memoryBytes: 512n * MiB }),
    { state: FAILED, reason: "HOST_DISK_FULL" },
    "a change for which there is no room is refused",
  );
});

await t.test("the agent is killed and comes back", async (t) => {
  await using first = await LoneHost.start();
  const before = await first.ensure("vm-1", 1);
  await first.ensure("vm-off", 1, { power: Power.OFF });
  await first.ensure("vm-dies", 1);
  await first.ensure("vm-halted", 1);
  await first.driver.end("vm-halted", true);
  await until(() => first.manager.get("vm-halted").reason !== "");
  await first.kill();
  await first.driver.end("vm-dies", false);

  const second = await LoneHost.start({ directory: first.directory });
  await until(() => second.manager.list().every(({ state }) => state === RUNNING || state === STOPPED));
  const after = second.manager.get("vm-1");
  t.same(after.startedAt, before.startedAt, "it was taken up, not restarted");
  t.ok(after.seq > before.seq, "sequence numbers go on");
  t.equal(second.manager.get("vm-off").state, STOPPED);
  await until(() => second.manager.get("vm-dies").state === RUNNING);
  t.equal(second.manager.get("vm-halted").reason, "GUEST_POWERED_OFF", "what rests goes on resting");

  second.driver.set({ stepping: "manual" });
  await second.ensure("vm-half", 1, {}, 0);
  await until(() => second.driver.waiting > 0);
  const third = await second.restart();
  await until(() => third.manager.get("vm-half").state === RUNNING);
  await third.manager.close({ pullPlugs: true }, never);
  t.equal((await third.driver.inspect("vm-1"))?.state, "stopped", "a stop that pulls plugs stops them");
  const fourth = await third.restart();
  await until(() => fourth.manager.get("vm-1").state === RUNNING);
  t.pass("and the next start turns them on");
  await fourth.kill();
});

await t.test("a full disk refuses the command and loses nothing", async (t) => {
  await using host = await LoneHost.start();
  const before = await host.ensure("vm-1", 1);
  for (const id of ["vm-1", "vm-2"]) {
    await symlink("/dev/full", join(host.directory, "ledger", `${id}.intent.new`));
  }
  t.equal(await reasonOf(host.ensure("vm-1", 2, { vcpus: 2 })), "HOST_DISK_FULL");
  t.same(host.manager.get("vm-1").fence, before.fence, "the intent is the old one");
  t.equal(await reasonOf(host.ensure("vm-2", 1)), "HOST_DISK_FULL");
  t.equal(await reasonOf(() => host.manager.get("vm-2")), "NOT_FOUND");
  t.equal((await host.ensure("vm-1", 2, { vcpus: 2 })).vcpus, 2, "with room again it is accepted");
  t.equal((await host.ensure("vm-2", 1)).state, RUNNING);
});

await t.test("a guest that stands still for want of room goes on once there is some", async (t) => {
  /** Its guests stand still for as long as there is no room. */
  class CrampedDriver extends FakeDriver {
    room = true;
    override async inspect(id: string) {
      const found = await super.inspect(id);
      const stuck = { reason: "HOST_DISK_FULL", message: "no room" };
      return !found || this.room ? found : { ...found, state: "paused" as const, stuck };
    }
    override async ensure(...args: Parameters<FakeDriver["ensure"]>) {
      await super.ensure(...args);
      return (await this.inspect(args[0].id))!;
    }
  }
  const driver = new CrampedDriver({ log: silentLogger });
  await using host = await LoneHost.start({ driver });
  await host.ensure("vm-1", 1);
  driver.room = false;
  const stuck = await host.ensure("vm-1", 2, { vcpus: 2 }, 20);
  t.match(stuck, { state: PAUSED, reason: "HOST_DISK_FULL", message: /^no room; trying again in / });
  driver.room = true;
  await until(() => host.manager.get("vm-1").state === RUNNING);
  t.match(host.manager.get("vm-1"), { reason: "", message: "" });
});

await t.test("a damaged record takes no other with it", async (t) => {
  await using host = await LoneHost.start();
  await host.ensure("vm-1", 1);
  await host.ensure("vm-2", 1);
  await host.kill();
  const path = join(host.directory, "ledger", "vm-1.intent");
  const text = await readFile(path, "utf8");
  await writeFile(path, text.replace('"vcpus":1', '"vcpus":9'));
  await writeFile(join(host.directory, "ledger", "vm-3.intent.new"), "half a li");
  const next = await host.restart();
  await until(() => next.manager.get("vm-2").state === RUNNING);
  t.equal(next.manager.get("vm-1").reason, "LEDGER_DAMAGED");
  t.equal(next.manager.list().length, 2, "it is reported, so that nobody starts a second one");
  next.epoch = 9n;
  t.equal(await reasonOf(next.ensure("vm-1", 1)), "LEDGER_DAMAGED");
  t.equal(await reasonOf(next.remove("vm-1", 1)), "LEDGER_DAMAGED");
  await next.kill();
  const files = ["vm-1.intent", "vm-1.progress", "vm-2.intent", "vm-2.progress"];
  t.same((await readdir(join(host.directory, "ledger"))).sort(), files);
});

import { create } from "@bufbuild/protobuf";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { deriveColdShape } from "#agent/drivers/qemu/launch.ts";
import { channelEnd, movedDisks, withShortPath } from "#agent/drivers/qemu/migration/channels.ts";
import { decideStep } from "#agent/drivers/qemu/migration/decide.ts";
import { chooseWay } from "#agent/drivers/qemu/migration/give-way.ts";
import { deriveLimits, nextDowntimeMs } from "#agent/drivers/qemu/migration/limits.ts";
import { Pace } from "#agent/drivers/qemu/migration/pace.ts";
import { deriveProgress, isNear } from "#agent/drivers/qemu/migration/progress.ts";
import { areDisksNear, type Situation } from "#agent/drivers/qemu/migration/situation.ts";
import {
  chooseMachineType,
  cpuOf,
  deriveCpuModel,
  parseMachineTypes,
} from "#agent/drivers/hypervisor/model.ts";
import { encodeShape, parseShape } from "#agent/drivers/qemu/shape.ts";
import type { BlockJob, MigrationInfo, MigrationState } from "#agent/qmp/commands.ts";
import { MoveSchema, MoveType, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import { reasonOf } from "#test/support/reason-of.ts";

const [disk] = movedDisks;
if (!disk) throw new Error("a machine has a disk");

const copying: BlockJob = {
  device: disk.job,
  status: "running",
  ready: false,
  len: 1e9,
  offset: 4e8,
  "io-status": "ok",
};
const equal: BlockJob = { ...copying, status: "ready", ready: true, offset: 1e9 };
const copied: BlockJob = { ...equal, status: "concluded" };
const lost: BlockJob = { ...copying, status: "concluded", error: "no way" };
const stuck: BlockJob = { ...copying, status: "paused", "io-status": "failed" };

function at(status: MigrationState | undefined, job: BlockJob | undefined, runState = "running"): Situation {
  return { runState, migration: status ? { status } : {}, disks: [{ disk: disk!, job }] };
}

await t.test("what to do next", async (t) => {
  const cases: [string, Situation, boolean, string][] = [
    ["nothing is there yet", at(undefined, undefined), false, "mirror"],
    ["an older move has failed", at("failed", undefined), false, "mirror"],
    ["the disk is on its way", at(undefined, copying), false, "watch"],
    ["so little is left that memory may go", at(undefined, { ...copying, offset: 99e7 }), false, "stream"],
    [
      "nothing of a little disk has gone",
      at(undefined, { ...copying, len: 16e6, offset: 0 }),
      false,
      "watch",
    ],
    ["some of it has", at(undefined, { ...copying, len: 16e6, offset: 65536 }), false, "stream"],
    [
      "how much there is, it does not know yet",
      at(undefined, { ...copying, len: 0, offset: 0 }),
      false,
      "watch",
    ],
    ["its connection was lost for long", at(undefined, stuck), false, "resume"],
    ["its copy ended", at(undefined, lost), false, "MOVE_DISK_LOST"],
    ["it is equal", at(undefined, equal), false, "stream"],
    ["memory is on its way", at("active", equal), true, "watch"],
    ["so is its very beginning", at("setup", equal), true, "watch"],
    ["the disk's connection was lost for long", at("active", stuck), true, "resume"],
    ["and the guest has stopped since", at("pre-switchover", stuck), true, "MOVE_DISK_LOST"],
    ["the disk is lost meanwhile", at("active", lost), true, "MOVE_DISK_LOST"],
    ["it vanished meanwhile", at("active", undefined), true, "MOVE_DISK_LOST"],
    ["the memory is lost", at("failed", equal), true, "MOVE_MEMORY_LOST"],
    ["somebody cancelled", at("cancelled", equal), true, "MOVE_MEMORY_LOST"],
    ["it may never have begun", at(undefined, equal), true, "MOVE_MEMORY_LOST"],
    ["the guest has stopped", at("pre-switchover", equal), true, "release"],
    ["the rest of the disk is not there yet", at("pre-switchover", copying), true, "watch"],
    ["the last of the disk goes", at("pre-switchover", { ...equal, status: "waiting" }), true, "watch"],
    ["the disk is lost at the last moment", at("pre-switchover", lost), true, "MOVE_DISK_LOST"],
    ["the disk is whole there", at("pre-switchover", copied), true, "continue"],
    ["the last of the memory goes", at("device", copied), true, "watch"],
    ["all is there", at("completed", copied, "postmigrate"), true, "finish"],
    ["all but QEMU's last word", at("completed", copied, "finish-migrate"), true, "watch"],
    ["the rest of the memory follows", at("postcopy-active", copied, "finish-migrate"), true, "watch"],
    ["its connection was lost", at("postcopy-paused", copied, "finish-migrate"), true, "recover"],
    ["it is made again", at("postcopy-recover", copied, "finish-migrate"), true, "watch"],
    ["it was handed over and resumed", at("completed", copied, "running"), true, "MOVE_MEMORY_LOST"],
  ];
  for (const [name, now, begun, wanted] of cases) {
    const step = decideStep(now, { begun, uncommitted: false });
    t.equal(step.do === "fail" ? step.fault.reason : step.do, wanted, name);
  }
  const uncommitted = { begun: true, uncommitted: true };
  t.equal(
    decideStep(at("pre-switchover", equal), uncommitted).do,
    "release",
    "a post-copy releases its disk",
  );
  t.equal(decideStep(at("pre-switchover", copied), uncommitted).do, "watch", "and waits for the commit");
});

await t.test("how fast, and whether it gets anywhere", async (t) => {
  const pace = new Pace();
  t.equal(pace.timeFor(1), Infinity, "nothing is known at first");
  t.equal(pace.timeFor(0), 0, "nothing takes no time");
  pace.add({ atMs: 0, remaining: 1000, transferred: 0, rounds: 1 }, false);
  pace.add({ atMs: 100, remaining: 600, transferred: 200, rounds: 1 }, false);
  t.equal(pace.throughput, 2000, "what is written, a second");
  t.equal(pace.timeFor(400), 100, "pages of zeros go by faster than that");
  pace.add({ atMs: 5000, remaining: 600, transferred: 300, rounds: 1 }, true);
  t.equal(pace.timeFor(400), 100, "what is held back tells nothing");

  /** Rounds of one second that each begin with so much to send. */
  const rounds = (...peaks: number[]) => {
    const pace = new Pace();
    for (const [index, peak] of peaks.entries()) {
      pace.add({ atMs: index * 1000, remaining: peak, transferred: index * peak, rounds: index }, false);
      pace.add({ atMs: index * 1000 + 900, remaining: peak / 10, transferred: 0, rounds: index }, false);
    }
    return pace.stalled(peaks.length * 1000, 3000);
  };
  t.notOk(rounds(1000, 800, 600, 400, 300, 200, 100), "less each time");
  t.ok(rounds(1000, 800, 800, 810, 790, 800, 800, 800), "the same again and again");
  t.ok(pace.dirtyRate === 0, "nothing is known of what is written before a round has ended");
  t.notOk(rounds(1000, 800, 800, 800), "a few may be chance");
});

await t.test("limits", async (t) => {
  const move = create(MoveSchema, {
    maxDowntimeMs: 600,
    switchOver: true,
    onUnreachable: OnUnreachable.THROTTLE,
  });
  const steps = [0, 40, 80, 160, 320, 500].map((before) => nextDowntimeMs(move, before));
  t.same(steps, [40, 80, 160, 320, 500, 500], "it asks for little first and never for all that it may");
  const free = { held: false, mayEnd: true, downtimeMs: 80 };
  t.match(deriveLimits(free), { downtimeMs: 80 });
  t.equal(deriveLimits({ ...free, mayEnd: false }).downtimeMs, 0, "it may not switch over yet");
  const held = deriveLimits({ ...free, held: true });
  t.ok(held.bandwidth < 100_000 && held.bandwidth > 0, "held back");
  t.equal(nextDowntimeMs(create(MoveSchema, { maxDowntimeMs: 30 }), 0), 20, "a small limit is kept");
  t.equal(nextDowntimeMs(move, 40, 300), 300, "what is known to be needed is asked for at once");
  t.equal(nextDowntimeMs(move, 40, 3000), 500, "never more than there is");

  const { POSTCOPY, LIVE } = MoveType;
  const { ABORT, THROTTLE, FORCE } = OnUnreachable;
  const way = (type: MoveType, onUnreachable: OnUnreachable, downtimeMs = 500, throttlePercent = 0) =>
    reasonOf(() => chooseWay(Object.assign(move, { type, onUnreachable }), { downtimeMs, throttlePercent }));
  const choose = (type: MoveType, onUnreachable: OnUnreachable, downtimeMs = 500, throttlePercent = 0) =>
    chooseWay(Object.assign(move, { type, onUnreachable }), { downtimeMs, throttlePercent });
  t.equal(choose(LIVE, ABORT, 80), "ask-more", "there is room below what was allowed");
  t.equal(await way(LIVE, ABORT), "MAX_DOWNTIME_UNREACHABLE");
  t.equal(choose(LIVE, FORCE), "force");
  t.equal(choose(LIVE, THROTTLE, 500, 98), "wait");
  t.equal(await way(LIVE, THROTTLE, 500, 99), "MAX_DOWNTIME_UNREACHABLE", "no guest lives on less");
  t.equal(choose(POSTCOPY, ABORT), "post-copy");
  t.equal(choose(POSTCOPY, THROTTLE, 500, 99), "post-copy", "slowed down first where that was asked for");
});

await t.test("a guest does not stop while much of its disk is to go", async (t) => {
  const near = (job: BlockJob, rate: number) => areDisksNear(at("active", job), (bytes) => bytes / rate, 40);
  const behind = { ...equal, len: 10_000_000, offset: 0 };
  t.ok(near(equal, 1), "nothing is left");
  t.notOk(near(behind, 1000), "ten seconds' worth");
  t.ok(near(behind, 1_000_000), "on a fast link that is nothing");
  t.notOk(near({ ...equal, "io-status": "failed" }, 1_000_000), "nobody knows what is left behind a cut");
});

await t.test("progress", async (t) => {
  const ram: NonNullable<MigrationInfo["ram"]> = {
    total: 4000,
    remaining: 900,
    transferred: 100,
    duplicate: 2,
    "page-size": 4096,
    "dirty-sync-count": 3,
    "dirty-pages-rate": 5,
  };
  const small: BlockJob = { ...copying, len: 100, offset: 40 };
  const pace = new Pace();
  pace.add({ atMs: 0, remaining: 1900, transferred: 0, rounds: 1 }, false);
  pace.add({ atMs: 1000, remaining: 900, transferred: 1000, rounds: 1 }, false);
  const now = (status: MigrationState, more: object = {}): Situation => ({
    ...at(status, small, status === "completed" ? "postmigrate" : "running"),
    migration: { status, ram, ...more },
  });
  const input = {
    ...{ begun: true, near: false, postCopy: false, committed: false },
    ...{ pace, stoppedAtMs: 77, nowMs: 100, memoryBytes: 3000 },
  };
  t.same(deriveProgress(now("active"), input), {
    phase: "pre-copy",
    bytesTotal: 3100,
    bytesRemaining: 960,
    zeroBytes: 8192,
    dirtyRate: 20_480,
    throughput: 1000,
    rounds: 3,
    predictedDowntimeMs: 990,
  });
  const phases = (["active", "pre-switchover", "device", "postcopy-active"] as const).map(
    (status) => deriveProgress(now(status), { ...input, near: true }).phase,
  );
  t.same(phases, ["converged", "switchover", "switchover", "post-copy"]);
  t.match(deriveProgress(at(undefined, small), { ...input, begun: false }), {
    phase: "disk-copy",
    bytesTotal: 3100,
    bytesRemaining: 3060,
  });
  const over = now("completed", { "total-time": 9, downtime: 41 });
  t.match(deriveProgress(over, input), { phase: "handed-over", stoppedMs: 41, stoppedAtMs: 77 });
  t.equal(deriveProgress(now("completed"), input).stoppedMs, undefined, "its times may come later");
  const offer = { ...input, postCopy: true };
  const stopped = (job: BlockJob) =>
    deriveProgress({ ...now("pre-switchover"), ...at("pre-switchover", job) }, offer);
  t.equal(stopped(copying).phase, "switchover", "a post-copy waits for its disks");
  t.match(
    stopped(copied),
    { phase: "post-copy", stoppedAtMs: 77, stoppedMs: 23 },
    "then it could be committed",
  );
  t.match(deriveProgress(now("postcopy-paused"), offer), { phase: "post-copy", interrupted: true });
  t.ok(isNear(now("active"), pace, false), "a second is near");
  const far = { ...now("active"), migration: { ram: { ...ram, remaining: 3000 } } };
  t.notOk(isNear(far, pace, false), "three are not");
  t.ok(isNear(far, pace, true), "unless it was near before: rounds swing");
});

await t.test("a shape travels as text", async (t) => {
  const shape = { ...deriveColdShape({ machineType: "pc-q35-7.2", cpuModel: "max-7.2" }), vcpus: 3 };
  t.same(parseShape(encodeShape(shape)), shape);
  t.equal(parseShape(""), undefined, "there may be none");
  const wrong = [
    "{",
    "7",
    "null",
    encodeShape({ ...shape, vcpus: 1.5 }),
    encodeShape({ ...shape, machineType: "pc,usb=on" }),
    encodeShape(shape).replace("64", '"'),
  ];
  for (const text of wrong) t.equal(await reasonOf(() => parseShape(text)), "MOVE_BLOCKED", text);
});

await t.test("what guests see of the machine", async (t) => {
  const help = [
    "Supported machines are:",
    "microvm              microvm (i386)",
    "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)",
    "q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)",
    "pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)",
    "pc-q35-2.9           Standard PC (Q35 + ICH9, 2009)",
    "pc-q35-2.12          Standard PC (Q35 + ICH9, 2009)",
    "pc-q35-10.0          Standard PC (Q35 + ICH9, 2009)",
  ].join("\n");
  const machineTypes = ["pc-q35-10.0", "pc-q35-7.2", "pc-q35-2.12", "pc-q35-2.9"];
  t.same(parseMachineTypes(help, "q35"), machineTypes, "newest first");
  t.same(parseMachineTypes(help, "virt"), []);
  const host = { machineTypes, cpuModel: "" };
  t.equal(chooseMachineType("pc-q35-2.9", host, "q35"), "pc-q35-2.9", "a machine keeps its type");
  t.equal(chooseMachineType("pc-q35-1.0", host, "q35"), "pc-q35-10.0", "unless it is gone");
  t.equal(chooseMachineType(undefined, { ...host, machineTypes: [] }, "q35"), "q35");
  const cpu = (flags: string, mhz: string) =>
    deriveCpuModel("kvm", {
      version: "",
      cpuInfo: `model\t: 6\nflags\t: ${flags}\ncpu MHz\t: ${mhz}\n\nmodel: 7`,
    });
  t.equal(cpu("a b", "1"), cpu("a b", "2"), "the same CPU at another speed");
  t.not(cpu("a b", "1"), cpu("a", "1"), "another CPU");
  t.equal(cpuOf(cpu("a", "1")), "host");
  t.equal(deriveCpuModel("tcg", { version: "7.2.22", cpuInfo: "" }), "max-7.2");
  t.equal(cpuOf("max-7.2"), "max");
});

await t.test("ways in", async (t) => {
  t.equal(await reasonOf(() => channelEnd("disk:other")), "NO_SUCH_CHANNEL");
  t.not(channelEnd("memory"), channelEnd("disk:root"));
  const folder = await mkdtemp(join(tmpdir(), "x".repeat(100)));
  t.teardown(() => rm(folder, { recursive: true }));
  const path = await withShortPath(folder, "move-memory.sock", async (path) => path);
  t.ok(path.length < 107, "a path that a socket may have");
});

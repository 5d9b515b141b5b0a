/** What an agent keeps on disk: nothing is lost to a kill, a full disk or a damaged file. */
import { execFile } from "node:child_process";
import { open, readdir, readFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { create } from "@bufbuild/protobuf";
import { MachineSpecSchema } from "#gen/skerry/agent/v1/machine_pb.js";
import { DurableFolder } from "#agent/machines/durable-file.ts";
import { Ledger } from "#agent/machines/ledger.ts";
import { silentLogger } from "#kernel/log.ts";
import { reasonOf } from "#test/support/reason-of.ts";

// Whoever else writes meanwhile, a test runner say, is told by an error, and not killed.
process.on("SIGXFSZ", () => undefined);

/** Files of this process may not grow beyond so many bytes; a write that would is cut short, as on a full disk. */
async function limitFiles(bytes: number | "unlimited"): Promise<void> {
  await promisify(execFile)("prlimit", ["--pid", String(process.pid), `--fsize=${String(bytes)}:`]);
}

await t.test("a text that is written over lightly", async (t) => {
  const folder = new DurableFolder(t.testdir());
  const path = join(folder.path, "one");
  const read = () => readFile(path, "utf8");
  await folder.overwrite("one", "first\n");
  const reader = await open(path);
  await folder.overwrite("one", "2nd\n");
  t.equal(await read(), "2nd\nt\n", "what fits in a page goes over the beginning of what was there");
  const long = `${"é".repeat(3000)}\n`;
  await folder.overwrite("one", long);
  t.equal(await read(), long);
  t.equal(await reader.readFile("utf8"), "2nd\nt\n", "what does not is never written over another text");
  await reader.close();
  t.same(await readdir(folder.path), ["one"], "nothing is left beside it");
  await folder.overwrite("one", "short\n");
  t.equal((await read()).split("\n")[0], "short");
});

await t.test("no room to write lightly", async (t) => {
  const folder = new DurableFolder(t.testdir());
  await symlink("/dev/full", join(folder.path, "full"));
  t.equal(await reasonOf(folder.overwrite("full", "text")), "HOST_DISK_FULL");
  await symlink("/dev/full", join(folder.path, "long.new"));
  t.equal(await reasonOf(folder.overwrite("long", "x".repeat(5000))), "HOST_DISK_FULL");
  t.same(await readdir(folder.path), ["full"], "half a file beside it is taken away");
  await limitFiles(3000);
  try {
    t.equal(
      await reasonOf(folder.overwrite("short", "x".repeat(3500))),
      "HOST_DISK_FULL",
      "a write cut short",
    );
  } finally {
    await limitFiles("unlimited");
  }
});

await t.test("tombstones", async (t) => {
  let nowMs = 1_000_000;
  const directory = t.testdir();
  const options = { directory, log: silentLogger, now: () => nowMs };
  const fenceOf = (epoch: bigint) => ({ epoch, generation: 1n });
  const same = () => false;
  const ledger = await Ledger.open(options);
  await ledger.accept("vm-1", { fence: fenceOf(1n), spec: create(MachineSpecSchema) }, same);
  await ledger.note("vm-1", { generationReached: 1n, crashes: 3n });
  const lastSeq = ledger.nextSeq("vm-1");
  await ledger.accept("vm-1", { fence: fenceOf(2n), spec: undefined }, same);
  await ledger.note("vm-1", { gone: { atMs: nowMs, fence: fenceOf(2n) } });
  await ledger.accept("vm-2", { fence: fenceOf(1n), spec: undefined }, same);
  await ledger.note("vm-2", { gone: { atMs: nowMs, fence: fenceOf(1n) } });

  const later = await Ledger.open(options);
  t.equal(
    await reasonOf(later.accept("vm-1", { fence: fenceOf(1n), spec: create(MachineSpecSchema) }, same)),
    "FENCE_STALE",
  );
  await later.accept("vm-1", { fence: fenceOf(3n), spec: create(MachineSpecSchema) }, same);
  const reborn = await Ledger.open(options);
  t.equal(reborn.find("vm-1")?.progress.generationReached, 0n, "a new life begins afresh");
  t.equal(reborn.find("vm-1")?.progress.crashes, 0n);
  t.ok(reborn.nextSeq("vm-1") > lastSeq, "but goes on counting");

  nowMs += 8 * 24 * 3600 * 1000;
  await reborn.prune();
  t.same(
    reborn.list().map(({ id }) => id),
    ["vm-1"],
    "after a week tombstones are forgotten, machines are not",
  );
});

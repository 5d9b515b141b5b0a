import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { duplexPair } from "node:stream";
import t from "tap";
import { machineFiles } from "#agent/drivers/hypervisor/files.ts";
import { movedDisks } from "#agent/drivers/qemu/migration/channels.ts";
import { DeltaCopy, type DeltaCopyOptions } from "#agent/drivers/qemu/migration/delta-copy.ts";
import { dropKeptDisks, keepDisk, takeKeptDisk } from "#agent/drivers/hypervisor/kept-disk.ts";
import { chooseToDrop } from "#agent/machines/kept-disks.ts";
import { NbdClient } from "#agent/nbd/client.ts";
import { findDirty } from "#agent/nbd/copy.ts";
import { optionMagic, optionReplyMagic, options, serverMagic } from "#agent/nbd/wire.ts";
import { Fault } from "#kernel/fault.ts";
import { unlessAborted } from "#kernel/stall.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const GiB = 2 ** 30;
const signal = new AbortController().signal;

t.test("kept disks go in time, or earlier when the host needs the room", async (t) => {
  const kept = (id: string, untilMs: number, gib: number) => ({ id, untilMs, bytes: gib * GiB });
  const room = (freeGib: number) => ({ totalBytes: 100 * GiB, freeBytes: freeGib * GiB });
  const [a, b, c] = [kept("a", 10, 5), kept("b", 30, 8), kept("c", 20, 4)];
  t.same(chooseToDrop([], room(0), 0), []);
  t.same(chooseToDrop([a, b, c], room(50), 5), [], "there is time and room");
  t.same(chooseToDrop([a, b, c], room(50), 20), ["a", "c"], "past their time");
  t.same(chooseToDrop([a, b, c], room(7), 0), ["a"], "the next to go makes the room that is short");
  t.same(chooseToDrop([a, b, c], room(1), 0), ["a", "c"], "the next ones");
  t.same(chooseToDrop([b, kept("d", 40, 13)], room(50), 0), ["b"], "more than all may take up");
});

t.test("a kept disk has one name, and is a machine's only by another", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "kept-"));
  t.teardown(() => rm(directory, { recursive: true }));
  const files = machineFiles(directory);
  const put = (...names: string[]) => Promise.all(names.map((name) => writeFile(join(directory, name), "")));
  t.equal(await keepDisk(machineFiles(join(directory, "absent")), "mig-1"), false);
  await put("root.qcow2", "seed.iso", "qemu.json");
  await mkdir(join(directory, "folder"));
  t.equal(await keepDisk(files, "mig-1"), true);
  t.same(await readdir(directory), ["kept-mig-1.qcow2"]);
  t.equal(await keepDisk(files, undefined), true, "asked again, by an agent that has forgotten why");
  t.equal(await takeKeptDisk(files, "mig-2"), false, "of another move");
  t.equal(await takeKeptDisk(files, "../mig-1"), false, "no migration at all");
  t.equal(await takeKeptDisk(files, "mig-1"), true);
  t.same(await readdir(directory), ["root.qcow2"]);
  t.equal(await keepDisk(files, undefined), false, "a disk that no move has taken away is none to keep");
  t.equal(await keepDisk(files, "no/id"), false);
  t.equal(await keepDisk(files, "mig-3"), true);
  await dropKeptDisks(directory);
  t.same(await readdir(directory), []);
});

t.test("what is dirty, in pieces that are all zeros or not", async (t) => {
  const KiB = 1024;
  const extents = (...pairs: readonly (readonly [kib: number, flags: number])[]) =>
    pairs.map(([kib, flags]) => ({ length: kib * KiB, flags }));
  const found = (...args: Parameters<typeof findDirty>) =>
    [...findDirty(...args)].map(({ offset, length, zero }) => [offset / KiB, length / KiB, zero]);
  t.same(found(extents([64, 0]), extents([64, 0]), 64 * KiB), []);
  // Zeros from 64 to 192; dirty from 0 to 128 and from 512 to 1024.
  const allocation = extents([64, 0], [128, 3], [832, 0]);
  const dirty = extents([128, 1], [384, 0], [512, 1]);
  t.same(found(allocation, dirty, 1024 * KiB), [
    [0, 64, false],
    [64, 64, true],
    [512, 256, false],
    [768, 256, false],
  ]);
  t.same(found(allocation, dirty, 600 * KiB).at(-1), [512, 88, false], "no further than both tell of");
  t.same(found(extents([1024 * KiB, 2]), extents([1024 * KiB, 1]), 100 * 1024 * KiB), [
    [0, 65536, true],
    [65536, 36864, true],
  ]);
});

t.test("a disk's server that does not do as it should", async (t) => {
  // Nothing else keeps this process until a limit is over.
  const awake = setInterval(() => undefined, 1000);
  t.teardown(() => clearInterval(awake));
  const greeting = Buffer.alloc(18);
  greeting.writeBigUInt64BE(serverMagic, 0);
  greeting.writeBigUInt64BE(optionMagic, 8);
  greeting.writeUInt16BE(3, 16);
  const reply = (kind: number, payload: Buffer) => {
    const head = Buffer.alloc(20);
    head.writeBigUInt64BE(optionReplyMagic, 0);
    head.writeUInt32BE(options.go, 8);
    head.writeUInt32BE(kind, 12);
    head.writeUInt32BE(payload.length, 16);
    return Buffer.concat([head, payload]);
  };
  const info = Buffer.alloc(12);
  info.writeBigUInt64BE(4096n, 2);
  const ready = Buffer.concat([greeting, reply(3, info), reply(1, Buffer.alloc(0))]);
  let [near, far] = duplexPair();
  const open = (...said: (Buffer | "end")[]) => {
    [near, far] = duplexPair();
    far.resume();
    for (const one of said)
      if (one === "end") far.end();
      else far.write(one);
    return NbdClient.open(near, { name: "root", limitMs: 300 }, signal);
  };
  const faultOf = (work: Promise<unknown>) => work.catch((fault: unknown) => fault);
  t.match(await faultOf(open(Buffer.alloc(18))), { reason: "NBD_PROTOCOL" });
  t.equal(await reasonOf(open(greeting, "end")), "NBD_DISCONNECTED");
  t.equal(await reasonOf(open(greeting)), "TIMEOUT");
  t.equal(await reasonOf(open(greeting, reply(2 ** 31 + 6, Buffer.from("unknown")))), "NBD_REFUSED");
  using client = await open(ready);
  t.equal(client.bytes, 4096);
  t.equal(await reasonOf(client.read(0, 512)), "NBD_STALLED");
  t.equal(await reasonOf(client.flush()), "NBD_STALLED", "nobody asks it again");
  using gone = await open(ready, "end");
  t.equal(await reasonOf(gone.write(0, Buffer.alloc(512))), "NBD_DISCONNECTED");
  const error = Buffer.alloc(16);
  error.writeUInt32BE(0x67446698, 0);
  error.writeUInt32BE(28, 4);
  error.writeBigUInt64BE(1n, 8);
  using full = await open(ready);
  const refused = full.writeZeroes(0, 512);
  far.write(error);
  t.match(await faultOf(refused), { reason: "NBD_IO_FAILED", detail: { errno: 28 } });
  t.ok(full.isOpen, "one refusal is not the end");
});

t.test(
  "the last of a disk is copied on while the command that asked for it gives way to the next",
  async (t) => {
    let open: () => void = () => undefined;
    const opened = new Promise<void>((resolve) => (open = resolve));
    let isLast = false;
    const execute = async (command: string, _args: unknown, limit: AbortSignal) => {
      if (isLast) await unlessAborted(opened, limit);
      limit.throwIfAborted();
      if (command === "transaction") return {};
      return [{ "node-name": "root", "dirty-bitmaps": [{ name: "move-written", count: 0 }] }];
    };
    const options = {
      machine: { execute },
      directory: "",
      disk: movedDisks[0]!,
      baseline: "mig-1",
      socketOf: String,
    };
    const copy = await DeltaCopy.begin(options as unknown as DeltaCopyOptions, signal);
    t.teardown(() => copy[Symbol.asyncDispose]());
    await until(() => copy.job.status === "ready");
    isLast = true;
    const command = new AbortController();
    const asked = copy.finish(command.signal);
    command.abort(new Fault("stale", "a newer command has come", { reason: "NEWER" }));
    t.equal(await reasonOf(asked), "NEWER");
    open();
    await copy.finish(signal);
    t.equal(copy.job.status, "concluded");
  },
);

/** Pages in what a hypervisor writes: how they are found, and how those that are in a file become references to it. */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { writeFile } from "node:fs/promises";
import fc from "fast-check";
import t from "tap";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { CodecChoice } from "#agent/migration/coding/choice.ts";
import { AdaptiveEncoder } from "#agent/migration/coding/coders.ts";
import type { Task } from "#agent/migration/coding/tasks.ts";
import { Stages } from "#agent/migration/coding/stages.ts";
import { LinkMeter } from "#agent/migration/link-meter.ts";
import { PageSet } from "#agent/migration/pages/page-sets.ts";
import { ownSlab, Slabs } from "#agent/migration/slabs.ts";
import { pageOffsets } from "#agent/migration/pages/sorted-block.ts";
import { headBytes, pageBytes, PageScanner } from "#agent/migration/pages/scanner.ts";
import { StageYield } from "#agent/migration/pages/stage-yield.ts";
import { buildPageTable } from "#agent/migration/pages/table.ts";
import { memoryStream, type StreamPage } from "#test/support/memory-stream.ts";
import { piecesOf } from "#test/support/pieces.ts";
import { reasonOf } from "#test/support/reason-of.ts";

await t.test(
  "the scanner finds every page, however the stream is cut, and holds no other byte back",
  async (t) => {
    const pages = Array.from({ length: 45 }, (_, index): StreamPage => {
      return index % 3 === 0 ? "zero" : Buffer.alloc(pageBytes, `page ${index}`);
    });
    const full = pages.filter((page) => page !== "zero");
    const stream = memoryStream(pages, randomBytes(5000));
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 3, max: 20_000 }), { minLength: 1 }), (sizes) => {
        const scanner = new PageScanner();
        const blocks: Buffer[] = [];
        const found: Buffer[] = [];
        let zeroBytes = 0;
        let pending = Buffer.alloc(0);
        const cut = (all: boolean) => {
          const block = scanner.cut(all);
          const whole = pending.subarray(0, block.bytes);
          for (const at of pageOffsets(block.runs)) found.push(whole.subarray(at, at + pageBytes));
          pending = pending.subarray(block.bytes);
          if (pending.length >= pageBytes + 15) throw new Error("a whole record was held back");
          blocks.push(whole);
          zeroBytes += block.zeroBytes;
        };
        for (const piece of piecesOf(stream, sizes)) {
          scanner.scan(piece);
          pending = Buffer.concat([pending, piece]);
          cut(false);
        }
        cut(true);
        t.ok(Buffer.concat(blocks).equals(stream), "no byte is lost");
        t.ok(Buffer.concat(found).equals(Buffer.concat(full)), "every page is found, and only those");
        t.equal(zeroBytes, (pages.length - full.length) * pageBytes);
        t.equal(scanner.scanning, false, "devices are left alone");
      }),
      { numRuns: 25 },
    );
  },
);

await t.test("the scanner leaves alone what it does not know", async (t) => {
  const stream = memoryStream([Buffer.alloc(pageBytes, 1), Buffer.alloc(pageBytes, 2)], Buffer.alloc(9));
  const at = (offset: number, value: number) => {
    const changed = Buffer.from(stream);
    changed[offset] = value;
    return changed;
  };
  const ram = stream.indexOf("ram");
  const strange: Record<string, Buffer> = {
    "another stream": at(0, 0),
    "another version": at(7, 4),
    "another section": at(ram, 0x78),
    "another block size": at(stream.indexOf("pc.ram") + 6 + 6, 0xff),
    "a flag of a page": at(stream.lastIndexOf("pc.ram") - 2, 0x48),
    noise: randomBytes(50_000),
  };
  for (const [what, changed] of Object.entries(strange)) {
    const scanner = new PageScanner();
    scanner.scan(changed);
    const { runs, bytes } = scanner.cut(true);
    t.equal(scanner.scanning, false, what);
    t.equal(scanner.isLost, false, "nothing was taken out");
    const sorting = new PageScanner("pc.ram");
    sorting.scan(changed);
    t.equal(sorting.isLost, what === "a flag of a page", `${what}: what was taken out may be missed`);
    t.ok(pageOffsets(runs).length < 2 && bytes === changed.length, what);
  }
});

await t.test("pages that are in the files become references and come back", async (t) => {
  const image = randomBytes(300 * pageBytes);
  image.fill(0, 10 * pageBytes, 20 * pageBytes);
  const other = randomBytes(20 * pageBytes + 100);
  const path = t.testdir({});
  await writeFile(join(path, "image"), image);
  await writeFile(join(path, "initrd"), other);
  const files = [
    { sha256: "image", path: join(path, "image"), bytes: image.length },
    { sha256: "initrd", path: join(path, "initrd"), bytes: other.length },
  ];
  const table = await buildPageTable(files);
  const open = { type: "open-pages", pageSet: 1, files } as const;
  const source = new PageSet({ ...open, table, peerNumbers: [1, 0] });
  const destination = new PageSet({ ...open, files: [files[1]!, files[0]!] });
  const half = new PageSet({ ...open, table, peerNumbers: [-1, 0] });
  t.teardown(() => {
    for (const set of [source, destination, half]) set.close();
  });
  const page = (from: Buffer, index: number) => from.subarray(index * pageBytes, (index + 1) * pageBytes);
  const raw = Buffer.concat([
    randomBytes(11),
    page(image, 3),
    page(image, 4),
    randomBytes(8),
    page(other, 19),
    randomBytes(pageBytes),
    page(image, 299),
  ]);
  const at = [11, 11 + 4096, 19 + 8192, 19 + 3 * 4096, 19 + 4 * 4096];
  const staged = source.stage(raw, Uint32Array.from(at));
  t.equal(staged?.references, 4, "all but the one that is nowhere");
  const block = Buffer.from(staged?.block ?? "");
  t.equal(block.length, raw.length - 4 * pageBytes + 4 + 4 * 12);
  const back = Buffer.alloc(raw.length);
  destination.unstage(block, back);
  t.ok(back.equals(raw));
  t.equal(half.stage(raw, Uint32Array.from(at))?.references, 1, "only files that the other host has");
  t.equal(source.stage(Buffer.alloc(pageBytes, 7), Uint32Array.of(0)), undefined);

  const stages = new Stages();
  const runs = at.map((offset, index) => {
    return { offset: offset - 8, firstHeadBytes: 8, bodyBytes: pageBytes, firstPage: 2 * index, count: 1 };
  });
  for (const method of [
    { codec: Codec.NONE, level: 0 },
    { codec: Codec.LZ4, level: 0 },
    { codec: Codec.ZSTD, level: 3 },
  ]) {
    const target = Buffer.alloc(raw.length);
    const task = { type: "encode", raw, target, method } as const;
    const trial = { codec: Codec.ZSTD, level: 1 };
    const encoded = stages.encode({ ...task, runs, trial }, source);
    const data = target.subarray(0, encoded.targetBytes);
    const frame = { ...encoded, type: "decode", data, target: back.fill(0) } as const;
    stages.decode(frame, destination);
    t.ok(back.equals(raw));
    t.equal(await reasonOf(async () => stages.decode(frame, undefined)), "MOVE_CORRUPTED");
    for (let turn = 0; turn < 40; turn++) {
      const damaged = Buffer.from(data);
      const index = Math.floor((turn / 40) * data.length);
      damaged[index] = (damaged[index] ?? 0) ^ 0x41;
      const decode = async () => stages.decode({ ...frame, data: damaged }, destination);
      t.equal(await reasonOf(decode), "MOVE_CORRUPTED");
    }
  }
});

await t.test("pages are looked up as long as enough of them are found", async (t) => {
  const after = (shares: readonly number[]) => {
    const stage = new StageYield();
    // Each a stretch of 32 MiB, in blocks of half a megabyte.
    return shares.map((share) =>
      Array.from({ length: 64 }, () => stage.pays(128, 128 * share)).every((pays) => pays),
    );
  };
  t.same(after([0.02, 0.02, 0.9]), [true, false, false], "it is dropped, and for good");
  t.same(after([0.02, 0.4, 0.02, 0.4]), [true, true, true, true], "one poor stretch is nothing");
  t.same(after([0.06, 0.06, 0.06]), [true, true, true]);

  const stages = new Stages();
  const sets: (number | undefined)[] = [];
  const run = async (task: Task): Promise<never> => {
    if (task.type === "encode") sets.push(task.pageSet);
    return (task.type === "encode" ? stages.encode(task, undefined) : null) as never;
  };
  let dropped = 0;
  const encoder = new AdaptiveEncoder({
    workers: { run, openStream: () => t.fail("not for lz4") as never },
    slabs: new Slabs(129 * pageBytes),
    choice: new CodecChoice({ codecs: [Codec.LZ4], threads: 1, strong: false }),
    link: new LinkMeter(),
    pageSet: 7,
    onStageDropped: () => dropped++,
  });
  const piece = Buffer.alloc(128 * (headBytes + pageBytes), 3);
  const pages = { offset: 0, firstHeadBytes: headBytes, bodyBytes: pageBytes, firstPage: 0, count: 128 };
  for (let turn = 0; turn < 130; turn++) {
    await encoder.encode({ ...ownSlab(piece), runs: [pages] });
  }
  t.equal(dropped, 1);
  t.same([...new Set(sets.slice(0, 128)), ...sets.slice(128)], [7, undefined, undefined]);
});

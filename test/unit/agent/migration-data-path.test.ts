/** The pure parts of the data path: messages, the scanner, the page stage, codecs and their choice, rates. */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { readFile, writeFile } from "node:fs/promises";
import { once } from "node:events";
import { duplexPair } from "node:stream";
import fc from "fast-check";
import t from "tap";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  Codec,
  MigrationService,
  PullRequestSchema,
  PullResponseSchema,
} from "#gen/skerry/agent/v1/migration_pb.js";
import { chooseCandidate, CodecChoice, type Candidate } from "#agent/migration/coding/choice.ts";
import { Codecs, type Method } from "#agent/migration/coding/codecs.ts";
import { longHeadBytes } from "#agent/migration/coding/long-streams.ts";
import { AdaptiveEncoder } from "#agent/migration/coding/coders.ts";
import type { EncodeTask, Task } from "#agent/migration/coding/tasks.ts";
import { Stages } from "#agent/migration/coding/stages.ts";
import { Gathering } from "#agent/migration/gathering.ts";
import { readInto } from "#agent/migration/hypervisor-reader.ts";
import { LinkMeter } from "#agent/migration/link-meter.ts";
import { PageSet } from "#agent/migration/pages/page-sets.ts";
import { ownSlab, type Slab, Slabs } from "#agent/migration/slabs.ts";
import { pageOffsets } from "#agent/migration/pages/sorted-block.ts";
import { headBytes, pageBytes, PageScanner } from "#agent/migration/pages/scanner.ts";
import { StageYield } from "#agent/migration/pages/stage-yield.ts";
import { buildPageTable } from "#agent/migration/pages/table.ts";
import { pullPath } from "#agent/migration/protocol.ts";
import { MoveCounters } from "#agent/migration/stats.ts";
import { Throttle } from "#agent/migration/throttle.ts";
import {
  decodeFrame,
  decodeRequest,
  encodeFrameHead,
  encodeRequest,
  MessageReader,
  messagePrefixBytes,
  prefixed,
  type Request,
} from "#agent/migration/wire.ts";
import { memoryStream, type StreamPage } from "#test/support/memory-stream.ts";
import { reasonOf } from "#test/support/reason-of.ts";

const codec = fc.constantFrom(Codec.NONE, Codec.LZ4, Codec.ZSTD, Codec.ZSTD_LONG);
const bytes = fc.uint8Array({ maxLength: 300 });

await t.test("messages are what the generated code writes and reads", async (t) => {
  t.equal(pullPath, `/${MigrationService.typeName}/${MigrationService.method.pull.name}`);
  const frame = fc.record({
    data: bytes,
    rawLength: fc.nat(2 ** 31 - 1),
    codec,
    staged: fc.boolean(),
    checksum: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    sequence: fc.nat(Number.MAX_SAFE_INTEGER),
    end: fc.boolean(),
    sorted: fc.boolean(),
    alone: fc.boolean(),
    askTaken: fc.boolean(),
  });
  fc.assert(
    fc.property(frame, (ours) => {
      const theirs = { ...ours, sequence: BigInt(ours.sequence) };
      const written = Buffer.concat([encodeFrameHead(ours), ours.data]);
      t.equal(written.readUInt32BE(1), written.length - messagePrefixBytes);
      const read = fromBinary(PullResponseSchema, written.subarray(messagePrefixBytes));
      t.match(read, { ...theirs, data: Buffer.from(ours.data) });
      const back = decodeFrame(toBinary(PullResponseSchema, create(PullResponseSchema, theirs)));
      t.same({ ...back, data: Buffer.from(back.data) }, { ...ours, data: Buffer.from(ours.data) });
    }),
    { numRuns: 60 },
  );
  const open = fc.record({
    version: fc.nat(2 ** 31 - 1),
    migrationId: fc.string(),
    channel: fc.string(),
    ticket: bytes,
    codecs: fc.array(codec),
    pageSources: fc.array(fc.string()),
    placedMemory: fc.string(),
    tellsTaken: fc.boolean(),
  });
  const request: fc.Arbitrary<Request> = fc.oneof(
    open.map((value) => ({ case: "open" as const, value })),
    bytes.map((value) => ({ case: "data" as const, value })),
    fc.nat(Number.MAX_SAFE_INTEGER).map((value) => ({ case: "taken" as const, value })),
    fc
      .record({ reason: fc.string(), message: fc.string() })
      .map((value) => ({ case: "abort" as const, value })),
  );
  fc.assert(
    fc.property(request, (ours) => {
      const read = fromBinary(PullRequestSchema, encodeRequest(ours));
      t.equal(read.message.case, ours.case);
      t.same(toBinary(PullRequestSchema, read), Uint8Array.from(encodeRequest(ours)));
      t.same(decodeRequest(toBinary(PullRequestSchema, read)), ours);
    }),
    { numRuns: 60 },
  );
});

await t.test(
  "messages are found however the stream is cut, and refused when they are too long",
  async (t) => {
    const messages = [Buffer.alloc(0), randomBytes(3), randomBytes(100), randomBytes(7)];
    const stream = Buffer.concat(messages.map((message) => prefixed(message)));
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), (sizes) => {
        const reader = new MessageReader(100);
        const found = piecesOf(stream, sizes).flatMap((piece) => reader.push(piece));
        t.same(
          found.map(({ bytes }) => bytes),
          messages,
        );
      }),
      { numRuns: 50 },
    );
    const malformed = [
      () => new MessageReader(10).push(prefixed(Buffer.alloc(11))),
      () => new MessageReader(10).push(Buffer.from([1, 0, 0, 0, 0])),
      () => decodeFrame(Buffer.from([0x0a, 0x05, 1])),
      () => decodeFrame(Buffer.from([0x10, 0x80])),
      () => decodeFrame(Buffer.from([0x17])),
      () => decodeFrame(Buffer.from([0x10, ...Array<number>(9).fill(0xff), 0x01])),
    ];
    for (const work of malformed) t.equal(await reasonOf(async () => work()), "FRAME_MALFORMED");
  },
);

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

await t.test("what was read stays as it is until its block is released", async (t) => {
  const sizes = fc.tuple(fc.integer({ min: 1, max: 40_000 }), fc.nat(30_000));
  fc.assert(
    fc.property(fc.array(sizes, { minLength: 20, maxLength: 60 }), (turns) => {
      const gathering = new Gathering(new Slabs(64 * 1024));
      const stream = randomBytes(60 * 40_000);
      const held: { readonly block: Slab; readonly from: number }[] = [];
      const memories = new Set<ArrayBufferLike>();
      let [read, cut, room] = [0, 0, gathering.room(50_000)];
      const release = ({ block, from }: (typeof held)[number]) => {
        if (block.bytes.length >= 8 * 1024) memories.add(block.bytes.buffer);
        if (!block.bytes.equals(stream.subarray(from, from + block.bytes.length))) throw new Error("lost");
        block.release();
        block.release();
      };
      for (const [count, rest] of turns) {
        // What a socket reads goes to where it was told last, whatever was cut off meanwhile.
        read += gathering.add(stream.copy(room, 0, read, read + count)).length;
        const bytes = gathering.isFull ? gathering.bytes : Math.max(0, gathering.bytes - rest);
        room = gathering.room(50_000);
        if (bytes > 0) held.push({ block: gathering.cut(bytes), from: cut });
        cut += bytes;
        if (held.length > 4) release(held.shift()!);
      }
      held.splice(0).forEach(release);
      if (memories.size > 8) throw new Error(`${memories.size} slabs, though few blocks were held at a time`);
    }),
    { numRuns: 30 },
  );
  t.pass("no byte was lost, and memory was used again");
});

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

await t.test("codecs: what shrinks comes back, what does not is left as it is", async (t) => {
  const codecs = new Codecs();
  const text = Buffer.from("a row of text, again and again. ".repeat(5000));
  for (const method of [
    { codec: Codec.LZ4, level: 0 },
    { codec: Codec.ZSTD, level: 1 },
  ]) {
    const coded = Buffer.from(codecs.compress(method, text) ?? "");
    t.ok(coded.length > 0 && coded.length < text.length / 20);
    const target = Buffer.alloc(text.length);
    codecs.decompressInto(target, method.codec, coded);
    t.ok(target.equals(text) && codecs.decompress(method.codec, coded, text.length + 1).equals(text));
    t.equal(codecs.compress(method, randomBytes(50_000)), undefined);
    for (const wrong of [text.length - 1, text.length + 1]) {
      const work = async () => codecs.decompressInto(Buffer.alloc(wrong), method.codec, coded);
      t.equal(await reasonOf(work), "MOVE_CORRUPTED");
    }
  }
  t.equal(codecs.compress({ codec: Codec.NONE, level: 0 }, text), undefined);
});

await t.test("a stream refers to what it had before, and comes back in order", async (t) => {
  const [near, far] = [new Stages(), new Stages()];
  const method = { codec: Codec.ZSTD_LONG, level: 1 } as const;
  const unlike = randomBytes(512 * 1024);
  const text = await readFile(import.meta.filename);
  const encode = (raw: Buffer, stream?: number, trial?: Method) => {
    const target = Buffer.alloc(raw.length + longHeadBytes);
    const task = { type: "encode", raw, target, method, ...(stream && { stream }), ...(trial && { trial }) };
    const { targetBytes, ...encoding } = near.encode(task as EncodeTask, undefined);
    return { ...encoding, raw, data: Buffer.from(target.subarray(0, targetBytes)) };
  };
  const decode = (frame: ReturnType<typeof encode>, stream: number) => {
    const target = Buffer.alloc(frame.raw.length);
    far.decode({ ...frame, type: "decode", target, stream }, undefined);
    return target;
  };
  const first = encode(unlike, 1);
  t.ok(first.data.length > unlike.length, "what does not shrink goes through it as well");
  const between = encode(text, 1, { codec: Codec.ZSTD, level: 12 });
  const [long, other] = between.coded.map(({ codedBytes }) => codedBytes);
  t.ok((other ?? Infinity) < (long ?? 0), "what was tried is shorter");
  t.equal(between.codec, Codec.ZSTD_LONG, "and is what is sent, whatever else was tried");
  const others = Array.from({ length: 20 }, () => encode(randomBytes(512 * 1024), 1));
  const again = encode(unlike, 1);
  t.ok(again.data.length < unlike.length / 100, `${again.data.length} bytes for what was 10 MiB ago`);
  const elsewhere = encode(unlike, 2);
  t.ok(elsewhere.data.length > unlike.length, "another stream knows nothing of it");
  for (const frame of [first, between, ...others, again]) t.ok(decode(frame, 7).equals(frame.raw));
  t.ok(decode(elsewhere, 8).equals(unlike));

  t.equal(await reasonOf(async () => decode(again, 9)), "MOVE_CORRUPTED", "out of order");
  const damaged = { ...encode(text, 3) };
  damaged.data[20] = (damaged.data[20] ?? 0) ^ 0x41;
  t.equal(await reasonOf(async () => decode(damaged, 10)), "MOVE_CORRUPTED");
  for (const { codecs } of [near, far]) for (const stream of [1, 7, 9, 10]) codecs.long.close(stream);
  const anew = encode(unlike, 1);
  t.ok(anew.data.length > unlike.length, "closed, it begins anew");
  t.ok(decode(anew, 10).equals(unlike), "also where what was damaged is used again");
  t.throws(() => encode(text), /no stream/);

  const level = (level: number, raw: Buffer) => {
    const target = Buffer.alloc(raw.length + longHeadBytes);
    const method = { codec: Codec.ZSTD_LONG, level };
    const { targetBytes, ...encoding } = near.encode(
      { type: "encode", raw, target, method, stream: 5 },
      undefined,
    );
    return { ...encoding, raw, data: Buffer.from(target.subarray(0, targetBytes)) };
  };
  const quick = [level(-10, unlike), level(-10, text)];
  const strong = [level(1, text), level(1, unlike), level(1, unlike)];
  const [, shortQuick] = quick.map(({ data }) => data.length);
  const [shortStrong, , repeated] = strong.map(({ data }) => data.length);
  t.ok((shortStrong ?? Infinity) < (shortQuick ?? 0), "another level begins at once");
  t.ok((repeated ?? Infinity) < unlike.length / 100, "and remembers what comes from then on");
  for (const frame of [...quick, ...strong, level(-10, text)]) t.ok(decode(frame, 5).equals(frame.raw));
});

await t.test("the codec that gets the most through is chosen", async (t) => {
  const candidates: Candidate[] = [
    { method: { codec: Codec.NONE, level: 0 }, ratio: 1, speed: Infinity },
    { method: { codec: Codec.LZ4, level: 0 }, ratio: 0.57, speed: 500e6 },
    { method: { codec: Codec.ZSTD, level: 1 }, ratio: 0.435, speed: 250e6 },
    { method: { codec: Codec.ZSTD, level: 3 }, ratio: 0.41, speed: 120e6 },
  ];
  const mbit = 1e6 / 8;
  for (const [link, threads, wanted] of [
    [10 * mbit, 2, 2],
    [100 * mbit, 2, 2],
    [1000 * mbit, 2, 2],
    [1500 * mbit, 1, 1],
    [4000 * mbit, 2, 1],
    [10_000 * mbit, 2, 0],
  ] as const) {
    const far = wanted === 0 ? 3 : 0;
    t.equal(chooseCandidate(candidates, far, link, threads), wanted, `${link} from ${far}`);
    t.equal(chooseCandidate(candidates, wanted, link, threads), wanted, `${link} stays`);
  }
  t.same(
    [1, 2].map((current) => chooseCandidate(candidates, current, 1000 * mbit, 1)),
    [1, 2],
    "no change for a little",
  );
  const [plain, quick, ...slower] = candidates as [Candidate, Candidate, ...Candidate[]];
  const among = (speed: number): Candidate[] => {
    const method = { codec: Codec.ZSTD_LONG, level: -10 };
    return [plain, quick, { method, ratio: 0.445, speed, sequential: true }, ...slower];
  };
  for (const [link, speed, threads, wanted, how] of [
    [2500, 400e6, 1, 2, "as quick as another, it leaves fewer bytes"],
    [2500, 200e6, 1, 1, "slower"],
    [4000, 700e6, 2, 1, "by one thread, where two do the other"],
    [10_000, 400e6, 1, 0, "none at all is quicker than both"],
  ] as const) {
    const far = wanted === 0 ? 2 : 0;
    t.equal(chooseCandidate(among(speed), far, link * mbit, threads), wanted, how);
  }

  const strong = { comfortable: 0.999, bearable: 0.96 };
  t.equal(chooseCandidate(candidates, 2, 100 * mbit, 2, strong), 3, "the fewest bytes when they are dear");

  const [{ method: none }, { method: lz4 }, { method: fast }] = candidates as [
    Candidate,
    Candidate,
    Candidate,
  ];
  const codecs = [Codec.LZ4, Codec.ZSTD];
  const even = { link: () => 1000 * mbit, through: () => 200e6, ratio: () => 0.5, seconds: 10 };
  t.equal(new CodecChoice({ codecs, threads: 2, strong: false }).next(undefined).method.codec, Codec.LZ4);

  const shrinkless = playChoice({ ...even, link: () => 100 * mbit, ratio: () => 0.998 });
  t.equal(shrinkless.last.codec, Codec.NONE, "what does not shrink is not compressed");
  t.equal(shrinkless.tried.size, 3, "all were tried");
  t.equal(
    playChoice({ ...even, codecs: [] }).last.codec,
    Codec.NONE,
    "the receiver decides what may be used",
  );

  const wide = { ...even, link: () => 1000 * mbit, ratio: ratioOf };
  const byLink = (method: Method) => (1000 * mbit) / ratioOf(method);
  t.same(playChoice({ ...wide, through: byLink }).last, fast, "as it should be");
  const short = ({ codec }: Method) =>
    ({ [Codec.NONE]: 100e6, [Codec.LZ4]: 150e6, [Codec.ZSTD]: 90e6, [Codec.ZSTD_LONG]: 90e6 })[codec];
  const crowded = playChoice({ ...wide, through: short });
  t.same(crowded.last, lz4, "cores are short: what should be better was not");
  t.ok(
    crowded.changes <= 2,
    `${crowded.changes} changes in ten seconds: what has lost is not tried again soon`,
  );
  const narrowing = (atMs: number) => (atMs < 5000 ? 1000 : 100) * mbit;
  const narrowed = (method: Method) => Math.min(short(method), 12.5e6 / ratioOf(method));
  const later = playChoice({ ...wide, link: narrowing, through: narrowed, seconds: 40 });
  t.same(later.last.codec, Codec.ZSTD, "but when things have changed it is");
  const shorter = ({ codec }: Method) => (codec === Codec.NONE ? 90e6 : 40e6);
  t.same(playChoice({ ...wide, through: shorter }).last, none, "so short that coding does not pay");
  const alike = ({ codec }: Method) => (codec === Codec.NONE ? 110e6 : 108e6);
  t.same(playChoice({ ...wide, through: alike }).last, lz4, "for a little more nobody sends twice the bytes");
  t.same(playChoice({ ...wide, through: short, strong: true }).last.codec, Codec.ZSTD, "bytes are dear");
  const long = { ...wide, codecs: [Codec.LZ4, Codec.ZSTD_LONG], link: () => 100 * mbit };
  const byRatio = (method: Method) => (100 * mbit) / ratioOf(method);
  let longBlocks = 0;
  const unlucky = (method: Method) =>
    method.codec === Codec.ZSTD_LONG && longBlocks++ < 10 ? 100 * mbit : byRatio(method);
  const slow = playChoice({ ...long, through: unlucky, seconds: 60 });
  const strongest = { codec: Codec.ZSTD_LONG, level: 1 };
  t.same([slow.last, slow.changes], [strongest, 1], "on a slow link nothing needs to be tried");
  let blocks = 0;
  const mixed = (method: Method) => (blocks++ % 50 < 10 ? 1 : ratioOf(method));
  const uneven = playChoice({ ...long, through: byRatio, ratio: mixed, seconds: 60 });
  t.ok(
    uneven.last.codec === Codec.ZSTD_LONG && uneven.changes <= 3,
    `${uneven.changes} changes in uneven memory, last ${JSON.stringify(uneven.last)}`,
  );
  const better = ({ codec }: Method) => (codec === Codec.ZSTD_LONG ? 300e6 : 200e6);
  const late = playChoice({ ...long, link: () => 1000 * mbit, through: better, lag: 200 });
  t.same(late.last.codec, Codec.ZSTD_LONG, "a trial begins with the first block of its codec that leaves");
  const leaping = (atMs: number) => (atMs % 1000 < 500 ? 50 : 20_000) * mbit;
  const { changes } = playChoice({ ...wide, link: leaping, seconds: 60 });
  t.ok(changes <= 12, `${changes} changes in a minute of a link that leaps each half second`);
});

function ratioOf({ codec, level }: Method): number {
  const long = level < 0 ? 0.41 : 0.34;
  return { [Codec.NONE]: 1, [Codec.LZ4]: 0.57, [Codec.ZSTD]: 0.44, [Codec.ZSTD_LONG]: long }[codec];
}

/** Plays a move through a choice: one block after the other, as fast as the world lets them through. */
function playChoice(world: {
  readonly link: (atMs: number) => number;
  /** The hypervisor's bytes per second. */
  readonly through: (method: Method) => number;
  readonly ratio: (method: Method) => number;
  readonly seconds: number;
  readonly strong?: boolean;
  readonly codecs?: readonly Codec[];
  /** So many blocks wait to leave. */
  readonly lag?: number;
}): { readonly last: Method; readonly changes: number; readonly tried: ReadonlySet<string> } {
  const { codecs = [Codec.LZ4, Codec.ZSTD], strong = false, lag = 0 } = world;
  const waiting: Method[] = [];
  const blockBytes = 500_000;
  let now = 0;
  const choice = new CodecChoice({ codecs, threads: 2, strong, now: () => now });
  const tried = new Set<string>();
  let [last, changes] = [choice.next(undefined).method, 0];
  while (now < world.seconds * 1000) {
    const { method, trial } = choice.next(world.link(now)); // one waits while the one before is under way
    if (method.codec !== last.codec || method.level !== last.level) changes++;
    last = method;
    waiting.push(method);
    const leaves = waiting.length > lag ? waiting.shift() : undefined;
    if (leaves) {
      now += (blockBytes * 1000) / world.through(leaves);
      choice.sent(blockBytes, leaves.codec);
    }
    for (const each of trial ? [method, trial] : [method]) {
      if (each.codec !== Codec.NONE) tried.add(`${each.codec}:${each.level}`);
      choice.learn(each, blockBytes, blockBytes * world.ratio(each), each.codec === Codec.LZ4 ? 1 : 2);
    }
  }
  return { last, changes, tried };
}

await t.test(
  "rates: the link counts only while something waits, the throttle shares its limit",
  async (t) => {
    let now = 0;
    const link = new LinkMeter(0, () => now);
    for (let turn = 0; turn < 20; turn++) {
      now += 1000; // idle
      link.begin(1_000_000);
      now += 100;
      link.done(1_000_000);
    }
    t.equal(Math.round((link.rate ?? 0) / 1e5), 100);
    t.same([new LinkMeter().rate, new LinkMeter(5000).rate], [undefined, 5000], "a limit is known at once");

    const throttle = new Throttle(1_000_000, () => now);
    t.equal(throttle.claim(500_000), 0);
    t.equal(throttle.claim(250_000), 500);
    t.equal(throttle.claim(1), 750);
    now += 10_000;
    t.equal(throttle.claim(1), 0, "what was not used is gone");
    t.equal(new Throttle(0).claim(1e12), 0);
    t.same([throttle.blockBytes(512 * 1024), new Throttle(0).blockBytes(512 * 1024)], [125_000, 512 * 1024]);

    const counters = new MoveCounters(() => now);
    for (let turn = 0; turn < 30; turn++) {
      now += 100;
      counters.count(turn % 2 ? "memory" : "disk:root", { rawBytes: 2000, wireBytes: 1000, zeroBytes: 10 });
    }
    for (const used of [Codec.LZ4, Codec.LZ4, Codec.ZSTD]) counters.useCodec("disk:root", used);
    for (let turn = 0; turn < 100; turn++) {
      counters.useCodec("memory", Codec.ZSTD);
      counters.useCodec("disk:root", Codec.NONE);
    }
    const seen = counters.snapshot();
    t.match(seen.bytes, {
      memoryRaw: 30_000,
      memoryWire: 15_000,
      memoryZero: 150,
      diskRaw: 30_000,
      diskWire: 15_000,
    });
    t.same(seen.codecHistory, [
      { codec: "lz4", atMs: 3000 },
      { codec: "zstd", atMs: 3000 },
    ]);
    for (let turn = 0; turn < 500; turn++) counters.useCodec("memory", turn % 2 ? Codec.LZ4 : Codec.NONE);
    t.equal(counters.snapshot().codecHistory.length, 32);
    t.ok(seen.throughput >= 9000 && seen.throughput <= 11_000, `${seen.throughput}`);
  },
);

function piecesOf(stream: Buffer, sizes: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0, turn = 0; at < stream.length; turn++) {
    const size = sizes[turn % sizes.length] ?? 1;
    pieces.push(stream.subarray(at, at + size));
    at += size;
  }
  return pieces;
}

await t.test(
  "a hypervisor is read into memory of ours, also where Node has no handle to take over",
  async (t) => {
    const [accepted, hypervisor] = duplexPair();
    accepted.pause();
    const said = randomBytes(300_000);
    const pieces: Buffer[] = [];
    let room = Buffer.alloc(0);
    const reader = readInto(accepted, {
      room: () => (room = Buffer.alloc(7919)), // a prime, so that nothing fits
      onBytes: (count) => void pieces.push(room.subarray(0, count)),
    });
    t.equal(reader, accepted, "the socket itself is read");
    for (let at = 0; at < said.length; at += 60_001) hypervisor.write(said.subarray(at, at + 60_001));
    hypervisor.end();
    await new Promise(setImmediate);
    t.equal(pieces.length, 0, "nothing is read before it is resumed");
    reader.resume();
    await once(reader, "end");
    t.ok(Buffer.concat(pieces).equals(said), "whole and in order");
    reader.write("an answer");
    t.equal(String(await once(hypervisor, "data")), "an answer");
  },
);

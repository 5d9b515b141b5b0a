/** The pure parts of the data path: messages, the memory that is read into, rates. */
import { randomBytes } from "node:crypto";
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
import { Gathering } from "#agent/migration/gathering.ts";
import { readInto } from "#agent/migration/hypervisor-reader.ts";
import { LinkMeter } from "#agent/migration/link-meter.ts";
import { type Slab, Slabs } from "#agent/migration/slabs.ts";
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
import { piecesOf } from "#test/support/pieces.ts";
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

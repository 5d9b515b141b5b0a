/** Memory that the destination's agent writes itself: sorted out of the stream, and put into its places in order. */
import { randomBytes } from "node:crypto";
import { open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import t, { type Test } from "tap";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { CodecChoice } from "#agent/migration/coding/choice.ts";
import { AdaptiveEncoder, ThreadedDecoder } from "#agent/migration/coding/coders.ts";
import { Stages } from "#agent/migration/coding/stages.ts";
import type { DecodeTask, Task } from "#agent/migration/coding/tasks.ts";
import { emptyMemory, placeBlock, type PlacedMemory } from "#agent/migration/guest-memory.ts";
import { LinkMeter } from "#agent/migration/link-meter.ts";
import { pageBytes, PageScanner } from "#agent/migration/pages/scanner.ts";
import { readSorted, sortBlock, sortedHeadBytes } from "#agent/migration/pages/sorted-block.ts";
import { ownSlab, Slabs } from "#agent/migration/slabs.ts";
import type { Frame } from "#agent/migration/wire.ts";
import { sectionStream, type StreamPage, type StreamSection } from "#test/support/memory-stream.ts";
import { reasonOf } from "#test/support/reason-of.ts";

const memoryPages = 64;
/** Somewhere within the file, as a guest's memory is within its hypervisor's. */
const position = 3 * pageBytes;

interface MemoryFile {
  readonly memory: PlacedMemory;
  /** All of it. */
  readonly read: () => Promise<Buffer>;
}

async function memoryFile(t: Test): Promise<MemoryFile> {
  const path = join(t.testdir({}), "memory");
  await writeFile(path, Buffer.alloc(position + (memoryPages + 2) * pageBytes));
  const file = await open(path, "r+");
  t.teardown(() => file.close());
  const place = { name: "pc.ram", bytes: memoryPages * pageBytes, position, descriptor: file.fd };
  const memory = emptyMemory({ ...place, [Symbol.asyncDispose]: () => Promise.resolve() });
  const read = async () => (await readFile(path)).subarray(position, position + memoryPages * pageBytes);
  return { memory, read };
}

const page = (fill: number) => Buffer.alloc(pageBytes, fill);

/** What is left of a stream for the hypervisor, and in what blocks it was cut. */
function sortStream(stream: Buffer, pieces: readonly number[]): { block: Buffer; again: boolean }[] {
  const scanner = new PageScanner("pc.ram");
  const blocks: { block: Buffer; again: boolean }[] = [];
  let pending = Buffer.alloc(0);
  const cut = (all: boolean) => {
    const { bytes, runs, again } = scanner.cut(all);
    const raw = pending.subarray(0, bytes);
    pending = pending.subarray(bytes);
    const { block } = sortBlock(raw, runs, Buffer.alloc(raw.length + sortedHeadBytes));
    if (block.length > raw.length + sortedHeadBytes) throw new Error("a sorted block is too long");
    blocks.push({ block, again });
  };
  for (let at = 0, turn = 0; at < stream.length; turn++) {
    const piece = stream.subarray(at, at + (pieces[turn % pieces.length] ?? 1));
    at += piece.length;
    scanner.scan(piece);
    pending = Buffer.concat([pending, piece]);
    cut(false);
  }
  cut(true);
  return blocks;
}

await t.test(
  "pages of one block leave the stream, whatever it is made of and however it is cut",
  async (t) => {
    const record = fc.tuple(fc.nat(memoryPages - 1), fc.option(fc.integer({ min: 1, max: 255 })));
    const section = fc.record({
      first: fc.array(record, { maxLength: 12 }),
      other: fc.array(record, { maxLength: 3 }),
      second: fc.array(record, { maxLength: 12 }),
    });
    const pieces = fc.array(fc.integer({ min: 3, max: 20_000 }), { minLength: 1 });
    const property = fc.asyncProperty(
      fc.array(section, { minLength: 1, maxLength: 6 }),
      pieces,
      async (parts, sizes) => {
        const { memory, read } = await memoryFile(t);
        const expected = Buffer.alloc(memoryPages * pageBytes);
        const pageOf = (fill: number | null): StreamPage => (fill === null ? "zero" : page(fill));
        const sections: StreamSection[] = [];
        const others: StreamSection[] = [];
        for (const { first, other, second } of parts) {
          for (const [at, fill] of [...first, ...second]) page(fill ?? 0).copy(expected, at * pageBytes);
          const told = (records: typeof first) => records.map(([at, fill]) => [at, pageOf(fill)] as const);
          sections.push({ "pc.ram": told(first), "vga.vram": told(other) }, { "pc.ram": told(second) });
          others.push({ "vga.vram": told(other) }, {});
        }
        const [blocks, device] = [{ "pc.ram": memoryPages, "vga.vram": memoryPages }, randomBytes(300)];
        const rest = sortStream(sectionStream(blocks, sections, device), sizes).map(({ block }) => {
          return Buffer.from(placeBlock(block, memory));
        });
        if (!(await read()).equals(expected)) throw new Error("memory is not what was sent last");
        if (!Buffer.concat(rest).equals(sectionStream(blocks, others, device)))
          throw new Error("the hypervisor hears something else than a stream without these pages");
      },
    );
    await fc.assert(property, { numRuns: 60 });
    t.pass("memory and stream are as they should be");
  },
);

await t.test("a block says when its pages may have come before", async (t) => {
  const told = (...pages: number[]) => pages.map((at) => [at, page(at + 1)] as const);
  const sections = [
    { "pc.ram": told(1, 2, 3, 7) },
    { "pc.ram": told(8, 9) },
    { "pc.ram": told(9) },
    { "pc.ram": told(12) },
  ];
  const stream = sectionStream({ "pc.ram": memoryPages }, sections, Buffer.alloc(3));
  const blocks = sortStream(stream, [100]).filter(({ block }) => readSorted(block).runs.length > 0);
  const firsts = blocks.map(({ block, again }) => [readSorted(block).runs[0]?.firstPage, again]);
  t.same(
    firsts,
    [1, 2, 3, 7, 8, 9, 9, 12].map((at, index) => [at, index === 6]),
  );
});

await t.test("what was never written stays so, and what is not memory is refused", async (t) => {
  const { memory, read } = await memoryFile(t);
  const blockOf = (pages: readonly (readonly [number, StreamPage])[]) => {
    const stream = sectionStream({ "pc.ram": 2 * memoryPages }, [{ "pc.ram": pages }], Buffer.alloc(0));
    return sortStream(stream, [stream.length]).at(0)?.block ?? Buffer.alloc(0);
  };
  const last = memoryPages - 1;
  placeBlock(
    blockOf([
      [0, page(7)],
      [1, page(8)],
      [last, page(9)],
    ]),
    memory,
  );
  const untouched = { ...memory, descriptor: -1 };
  placeBlock(
    blockOf([
      [2, "zero"],
      [3, "zero"],
      [last - 1, "zero"],
    ]),
    untouched,
  );
  t.pass("pages that are zero are not written");
  placeBlock(
    blockOf([
      [0, "zero"],
      [1, "zero"],
      [2, "zero"],
    ]),
    memory,
  );
  const now = await read();
  t.ok(now.subarray(0, last * pageBytes).equals(Buffer.alloc(last * pageBytes)));
  t.ok(now.subarray(last * pageBytes).equals(page(9)));
  placeBlock(
    blockOf([
      [0, "zero"],
      [1, "zero"],
    ]),
    untouched,
  );
  t.pass("nor twice");
  const beyond = async () => placeBlock(blockOf([[last + 1, page(1)]]), memory);
  t.equal(await reasonOf(beyond), "MOVE_CORRUPTED");
  const gone = async () => placeBlock(blockOf([[4, page(1)]]), { ...memory, descriptor: -1 });
  t.equal(await reasonOf(gone), "MOVE_HYPERVISOR_GONE");
  const block = blockOf([[1, page(3)]]);
  const count = Buffer.from(block);
  count.writeUInt32LE(1_000_000, 0);
  for (const senseless of [Buffer.alloc(3), count, block.subarray(0, 2000)])
    t.equal(await reasonOf(async () => readSorted(senseless)), "MOVE_CORRUPTED");
});

await t.test(
  "sorted blocks go through every codec, and damage is found before it reaches memory",
  async (t) => {
    const pages = Array.from({ length: 20 }, (_, at) => [at * 2, at % 5 === 0 ? "zero" : page(at)] as const);
    const raw = sectionStream({ "pc.ram": memoryPages }, [{ "pc.ram": pages }], Buffer.from("device"));
    const scanner = new PageScanner("pc.ram");
    scanner.scan(raw);
    const { runs } = scanner.cut(true);
    for (const codec of [Codec.NONE, Codec.LZ4, Codec.ZSTD, Codec.ZSTD_LONG]) {
      const { memory, read } = await memoryFile(t);
      const [near, far] = [new Stages(), new Stages()];
      const target = Buffer.alloc(raw.length + 256);
      const sorting = { runs, sort: true, stream: 1, method: { codec, level: 1 } };
      const encoding = near.encode({ type: "encode", raw, target, ...sorting }, undefined);
      t.equal(encoding.codec, codec);
      const data = target.subarray(0, encoding.targetBytes);
      const task: DecodeTask = { ...encoding, type: "decode", data, memory, stream: 1 };
      const damaged = Buffer.from(data);
      damaged[40] = (damaged[40] ?? 0) ^ 1;
      const decode = async () => far.decode({ ...task, data: damaged, stream: 2 }, undefined);
      t.equal(await reasonOf(decode), "MOVE_CORRUPTED");
      t.ok((await read()).equals(Buffer.alloc(memoryPages * pageBytes)), "nothing was written");
      t.ok(Buffer.from(far.decode(task, undefined) ?? []).includes("device"));
      for (const [at, contents] of pages)
        t.ok(
          (await read())
            .subarray(at * pageBytes, (at + 1) * pageBytes)
            .equals(contents === "zero" ? page(0) : contents),
        );
    }
  },
);

await t.test("what is too little for a codec is sorted all the same, and counts for no choice", async (t) => {
  const stages = new Stages();
  const tasks: Task[] = [];
  const run = async (task: Task): Promise<never> => {
    tasks.push(task);
    return (task.type === "encode" ? stages.encode(task, undefined) : null) as never;
  };
  const workers = { run, openStream: () => t.fail("it is no part of a stream") as never };
  const choice = new CodecChoice({ codecs: [Codec.LZ4], threads: 1, strong: false });
  const slabs = new Slabs(64 * 1024);
  const encoder = new AdaptiveEncoder({ workers, slabs, choice, link: new LinkMeter(), sorts: true });
  const raw = sectionStream({ "pc.ram": memoryPages }, [{ "pc.ram": [[5, page(1)]] }], Buffer.alloc(9));
  const scanner = new PageScanner("pc.ram");
  scanner.scan(raw);
  const { runs, again } = scanner.cut(true);
  const block = await encoder.encode({ ...ownSlab(raw), runs, again });
  t.equal(block.sorted, "together");
  t.equal(block.chosen, undefined);
  t.same(
    readSorted(block.bytes).runs.map(({ firstPage }) => firstPage),
    [5],
  );
  const rest = await encoder.encode(ownSlab(Buffer.alloc(100)));
  t.same(
    [rest.sorted, rest.chosen, tasks.length],
    [undefined, undefined, 1],
    "what has no pages stays as it is",
  );
});

await t.test("a frame that is alone waits for all before it, and all that follow for it", async (t) => {
  const { memory } = await memoryFile(t);
  const begun: number[] = [];
  const ends = new Map<number, () => void>();
  const run = async (task: Task): Promise<never> => {
    const number = Number(task.type === "decode" && task.checksum);
    begun.push(number);
    await new Promise<void>((resolve) => ends.set(number, resolve));
    return Uint8Array.of(number) as never;
  };
  const workers = { run, openStream: () => t.fail("no stream is decoded") as never };
  const decoder = new ThreadedDecoder({ workers, slabs: new Slabs(1024), memory });
  const told: number[] = [];
  const frame = (number: number, how: Partial<Frame> = {}) => {
    const common = {
      data: Buffer.alloc(1),
      rawLength: 1,
      codec: Codec.LZ4,
      staged: false,
      end: false,
      askTaken: false,
    };
    const order = { sorted: true, alone: false, sequence: number, checksum: BigInt(number) };
    const decoding = decoder.decode({ ...common, ...order, ...how }, ownSlab(Buffer.alloc(1)));
    void decoding.then(() => told.push(number));
  };
  const quiet = () => new Promise((resolve) => setImmediate(resolve));
  const end = async (number: number) => {
    ends.get(number)?.();
    await quiet();
  };
  [1, 2].forEach((number) => frame(number));
  frame(3, { alone: true });
  [4, 5].forEach((number) => frame(number));
  frame(6, { sorted: false });
  await quiet();
  t.same(begun, [1, 2]);
  await end(2);
  t.same(begun, [1, 2], "it waits for each");
  await end(1);
  t.same(begun, [1, 2, 3], "alone");
  await end(3);
  t.same([...begun].sort(), [1, 2, 3, 4, 5, 6]);
  t.equal(begun.length, 6);
  let isDisposed = false;
  const disposing = decoder[Symbol.asyncDispose]().then(() => (isDisposed = true));
  await end(4);
  t.equal(isDisposed, false, "one is still being written");
  await end(5);
  await disposing;
  await end(6);
  t.same(told, [2, 1, 3, 4, 5, 6]);
});

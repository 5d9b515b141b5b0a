/** Memory that the destination's agent writes itself, through a whole data path; the guest's memory is a file. */
import { randomBytes } from "node:crypto";
import { open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { PageFiles } from "#agent/migration/pages/page-files.ts";
import { pageBytes } from "#agent/migration/pages/scanner.ts";
import { silentLogger } from "#kernel/log.ts";
import { sleep } from "#kernel/retry.ts";
import { openDataPath, type DataPathOptions, type Sink } from "#test/support/data-path-world.ts";
import { sectionStream, type StreamPage, type StreamSection } from "#test/support/memory-stream.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const { startMove, directory } = await openDataPath(t);
const signal = AbortSignal.timeout(60_000);
const position = 5 * pageBytes;

/** A move to a host that writes the block `pc.ram` into a file. */
async function startPlacing(t: Test, pages: number, options: DataPathOptions = {}) {
  const path = join(t.testdir({}), "memory");
  await writeFile(path, "");
  let closed = 0;
  const memory = async () => {
    const file = await open(path, "r+");
    const close = async () => {
      await file.close();
      closed++;
    };
    const place = { name: "pc.ram", bytes: pages * pageBytes, position, descriptor: file.fd };
    return { ...place, [Symbol.asyncDispose]: close };
  };
  const move = await startMove(t, { ...options, puller: { ...options.puller, memory } });
  const read = async () => {
    const written = (await readFile(path)).subarray(position);
    return Buffer.concat([written, Buffer.alloc(pages * pageBytes - written.length)]);
  };
  return { ...move, sink: move.sinks.get("memory") as Sink, read, closed: () => closed };
}

await t.test("the last of each page is in memory, and the hypervisor hears of none", async (t) => {
  const pages = 6000;
  const image = randomBytes(100 * pageBytes);
  const path = join(directory, "image");
  await writeFile(path, image);
  const files = new PageFiles({ directory: join(directory, "raw"), log: silentLogger });
  const stage = { files, sources: [{ sha256: "a", path, format: "raw" as const }] };
  const kinds: readonly ((at: number) => StreamPage)[] = [
    () => "zero",
    () => randomBytes(pageBytes),
    (at) => Buffer.alloc(pageBytes, `page ${at} `),
    (at) => image.subarray((at % 100) * pageBytes, ((at % 100) + 1) * pageBytes),
  ];
  const expected = Buffer.alloc(pages * pageBytes);
  const round = (numbers: readonly number[], turn: number) =>
    numbers.map((at) => {
      const contents = (kinds[(at + turn) % kinds.length] ?? (() => "zero" as const))(at);
      if (contents === "zero") expected.fill(0, at * pageBytes, (at + 1) * pageBytes);
      else contents.copy(expected, at * pageBytes);
      return [at, contents] as const;
    });
  const all = Array.from({ length: pages }, (_, at) => at);
  const vram = [[1, randomBytes(pageBytes)]] as const;
  const first = round(all, 0);
  // Many rounds of few pages, so that the same page is under way more than once.
  const few = Array.from({ length: 40 }, (_, turn) => round(all.slice(0, 30 + turn), turn + 1));
  const sections: StreamSection[] = [
    { "pc.ram": first, "vga.vram": vram },
    ...few.map((part) => ({ "pc.ram": part })),
  ];
  const blocks = { "pc.ram": pages, "vga.vram": 4 };
  const device = randomBytes(200_000);
  const move = await startPlacing(t, pages, { source: { pages: stage }, puller: { pages: stage } });
  const running = move.puller.run(signal);
  (await move.dial("memory")).end(sectionStream(blocks, sections, device));
  await running;
  await until(() => move.sink.ends === 1);
  t.ok((await move.read()).equals(expected));
  const rest: StreamSection[] = sections.map((_, index) => (index === 0 ? { "vga.vram": vram } : {}));
  t.ok(move.sink.bytes.equals(sectionStream(blocks, rest, device)), "the rest is a stream without them");
  t.equal(move.closed(), 1);
  const { bytes, pageStage } = move.source.stats();
  t.ok(pageStage && bytes.memoryInImage > 1000 * pageBytes, "references are put into their places too");
});

await t.test(
  "a memory that cannot be written ends the move, and is closed when nothing writes to it",
  async (t) => {
    // The destination says that it has less than the guest.
    const move = await startPlacing(t, 100);
    const contents = Array.from({ length: 101 }, (_, at) => [at, randomBytes(pageBytes)] as const);
    const reason = reasonOf(move.puller.run(signal));
    const socket = await move.dial("memory");
    socket.end(sectionStream({ "pc.ram": 101 }, [{ "pc.ram": contents }], Buffer.alloc(10)));
    t.equal(await reason, "MOVE_CORRUPTED");
    t.equal(move.closed(), 1);
  },
);

await t.test(
  "nothing is written before the hypervisor is connected, which may be asked again until then",
  async (t) => {
    let connect = (): void => undefined;
    const connected = new Promise<void>((resolve) => (connect = resolve));
    let asked = false;
    const move: Awaited<ReturnType<typeof startPlacing>> = await startPlacing(t, 100, {
      puller: {
        connect: async () => {
          asked = true;
          await connected;
          return await move.sink.dial();
        },
      },
    });
    const running = move.puller.run(signal);
    const contents = Array.from({ length: 100 }, (_, at) => [at, Buffer.alloc(pageBytes, at + 1)] as const);
    (await move.dial("memory")).end(
      sectionStream({ "pc.ram": 100 }, [{ "pc.ram": contents }], Buffer.alloc(10)),
    );
    await until(() => asked && move.source.stats().bytes.memoryWire > 0);
    await sleep(200, signal);
    t.ok((await move.read()).equals(Buffer.alloc(100 * pageBytes)));
    connect();
    await running;
    t.ok((await move.read()).equals(Buffer.concat(contents.map(([, page]) => page))));
  },
);

await t.test("without such a memory the hypervisor is told everything", async (t) => {
  const memory = () => Promise.resolve(undefined);
  const { puller, sinks, dial } = await startMove(t, { puller: { memory } });
  const contents = Array.from({ length: 300 }, (_, at) => [at, randomBytes(pageBytes)] as const);
  const stream = sectionStream({ "pc.ram": 300 }, [{ "pc.ram": contents }], Buffer.alloc(10));
  const running = puller.run(signal);
  (await dial("memory")).end(stream);
  await running;
  await until(() => sinks.get("memory")?.ends === 1);
  t.ok(sinks.get("memory")?.bytes.equals(stream));
});

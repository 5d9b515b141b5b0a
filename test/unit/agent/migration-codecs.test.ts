/** Codecs of the data path: what each makes of a block, alone or after others, and which of them is chosen. */
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import t from "tap";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { chooseCandidate, CodecChoice, type Candidate } from "#agent/migration/coding/choice.ts";
import { LostTrials, type LostOnTheWay } from "#agent/migration/coding/lost-trials.ts";
import { Codecs, type Method } from "#agent/migration/coding/codecs.ts";
import { longHeadBytes } from "#agent/migration/coding/long-streams.ts";
import type { EncodeTask } from "#agent/migration/coding/tasks.ts";
import { Stages } from "#agent/migration/coding/stages.ts";
import { reasonOf } from "#test/support/reason-of.ts";

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
    [10_000, 400e6, 1, 2, "a core that does not code has more to encrypt and to carry"],
    [10_000, 700e6, 2, 0, "where another core codes, none at all is quicker"],
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
  let minutes = 0;
  const lostTrials = new LostTrials(() => minutes * 60_000);
  const next = { ...wide, link: () => 2000 * mbit, through: short, codecs: [Codec.LZ4], seconds: 5 };
  const [first, second, elsewhere] = ["one", "one", "other"].map((host) =>
    playChoice({ ...next, lost: lostTrials.towards(host) }),
  );
  t.same([first?.changes, second?.changes], [2, 0], "nor by the next move to the same host");
  t.equal(elsewhere?.changes, 2, "another host may be reached in another way");
  minutes = 10;
  t.equal(
    playChoice({ ...next, lost: lostTrials.towards("one") }).changes,
    2,
    "things may have changed by then",
  );
  const warming = (_: Method, atMs: number) => (atMs < 800 ? 40e6 : 100e6);
  const cold = playChoice({ ...next, through: warming });
  t.same([cold.last, cold.changes], [lz4, 2], "a move that gets into its stride is not the codec's doing");
  const narrowing = (atMs: number) => (atMs < 5000 ? 1000 : 100) * mbit;
  const narrowed = (method: Method) => Math.min(short(method), 12.5e6 / ratioOf(method));
  const later = playChoice({ ...wide, link: narrowing, through: narrowed, seconds: 40 });
  t.same(later.last.codec, Codec.ZSTD, "but when things have changed it is");
  const shorter = ({ codec }: Method) => (codec === Codec.NONE ? 90e6 : 40e6);
  t.same(playChoice({ ...wide, through: shorter }).last, none, "so short that coding does not pay");
  const alike = ({ codec }: Method) => (codec === Codec.NONE ? 120e6 : 108e6);
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
  readonly through: (method: Method, atMs: number) => number;
  readonly ratio: (method: Method) => number;
  readonly seconds: number;
  readonly strong?: boolean;
  readonly codecs?: readonly Codec[];
  /** So many blocks wait to leave. */
  readonly lag?: number;
  readonly lost?: LostOnTheWay;
}): { readonly last: Method; readonly changes: number; readonly tried: ReadonlySet<string> } {
  const { codecs = [Codec.LZ4, Codec.ZSTD], strong = false, lag = 0 } = world;
  const waiting: Method[] = [];
  const blockBytes = 500_000;
  let now = 0;
  const choice = new CodecChoice({ codecs, threads: 2, strong, lost: world.lost, now: () => now });
  const tried = new Set<string>();
  let [last, changes] = [choice.next(undefined).method, 0];
  while (now < world.seconds * 1000) {
    const { method, trial } = choice.next(world.link(now)); // one waits while the one before is under way
    if (method.codec !== last.codec || method.level !== last.level) changes++;
    last = method;
    waiting.push(method);
    const leaves = waiting.length > lag ? waiting.shift() : undefined;
    if (leaves) {
      now += (blockBytes * 1000) / world.through(leaves, now);
      choice.sent(blockBytes, leaves.codec);
    }
    for (const each of trial ? [method, trial] : [method]) {
      if (each.codec !== Codec.NONE) tried.add(`${each.codec}:${each.level}`);
      choice.learn(each, blockBytes, blockBytes * world.ratio(each), each.codec === Codec.LZ4 ? 1 : 2);
    }
  }
  return { last, changes, tried };
}

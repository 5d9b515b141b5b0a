/** What becomes frames of what a source's hypervisor writes, and how much of it is on its way at a time. */
import type { ServerHttp2Stream } from "node:http2";
import { PassThrough, Writable } from "node:stream";
import { setImmediate } from "node:timers/promises";
import t from "tap";
import { plainBlock } from "#agent/migration/block.ts";
import { FrameSender } from "#agent/migration/frame-sender.ts";
import { LinkMeter } from "#agent/migration/link-meter.ts";
import { defaultLimits, maxMessageBytes, type MoveLimits } from "#agent/migration/protocol.ts";
import { Slabs } from "#agent/migration/slabs.ts";
import { MoveCounters } from "#agent/migration/stats.ts";
import { Throttle } from "#agent/migration/throttle.ts";
import { decodeFrame, MessageReader, type Frame } from "#agent/migration/wire.ts";
import { until } from "#test/support/until.ts";
import { reasonOf } from "#test/support/reason-of.ts";

const settled = async () => {
  for (let turn = 0; turn < 20; turn++) await setImmediate();
};

interface Wish {
  readonly limits?: Partial<MoveLimits>;
  readonly tellsTaken?: boolean;
  /** The network takes a frame only when it is told. */
  readonly isSlow?: boolean;
}

function startSender({ limits, tellsTaken = false, isSlow = false }: Wish) {
  const reader = new MessageReader(maxMessageBytes);
  const frames: Frame[] = [];
  let done: () => void = () => undefined;
  const network = new Writable({
    writev: (pieces: { readonly chunk: Buffer }[], taken) => {
      for (const { chunk } of pieces)
        for (const { bytes } of reader.push(chunk)) frames.push(decodeFrame(bytes));
      if (isSlow) done = taken;
      else taken();
    },
  });
  const hypervisor = new PassThrough();
  const sender = new FrameSender({
    channel: "disk:root",
    stream: network as unknown as ServerHttp2Stream,
    accepted: hypervisor,
    encoder: {
      encode: async (block) => plainBlock(block),
      sent: () => undefined,
      [Symbol.dispose]: () => undefined,
    },
    scanner: undefined,
    slabs: new Slabs(defaultLimits.blockBytes),
    throttle: new Throttle(0),
    link: new LinkMeter(),
    counters: new MoveCounters(),
    limits: { ...defaultLimits, ...limits },
    tellsTaken,
  });
  return { sender, hypervisor, frames, left: () => done(), running: sender.run(AbortSignal.timeout(20_000)) };
}

const KiB = 1024;
const say = (hypervisor: PassThrough, bytes: number) => {
  for (let said = 0; said < bytes; said += 16 * KiB) hypervisor.write(Buffer.alloc(16 * KiB, 1));
};
const sentBytes = (frames: readonly Frame[]) => frames.reduce((sum, { rawLength }) => sum + rawLength, 0);
const lastAsking = (frames: readonly Frame[]) => frames.findLast(({ askTaken }) => askTaken)?.sequence ?? 0;

await t.test("what comes while a frame is under way goes out with the next, as one", async (t) => {
  const { hypervisor, frames, left, running } = startSender({ isSlow: true });
  const said = () => frames.map(({ data }) => data.toString());
  await settled();
  t.same(said(), [""], "the destination may connect");
  left();
  hypervisor.write("at once, ");
  await settled();
  t.same(said(), ["", "at once, "]);
  for (const piece of ["later, ", "but ", "together"]) {
    hypervisor.write(piece);
    await settled();
  }
  t.equal(frames.length, 2);
  left();
  await settled();
  t.same(said(), ["", "at once, ", "later, but together"]);
  hypervisor.end();
  left();
  await settled();
  left();
  await running;
  t.same(said().slice(3), [""], "the end");
});

await t.test("no more is on its way than may be, and less when that is asked for", async (t) => {
  const limits = { blockBytes: 32 * KiB, backlogBytes: 512 * KiB };
  const { sender, hypervisor, frames, running } = startSender({ limits, tellsTaken: true });
  say(hypervisor, 4096 * KiB);
  await settled();
  t.ok(frames[0]?.askTaken, "the first tells how long an answer takes");
  const first = sentBytes(frames);
  t.ok(first >= 512 * KiB && first <= 600 * KiB, `${String(first)} bytes`);
  t.equal(sender.backlogBytes, first);
  t.ok(lastAsking(frames) > frames.length - 4, "it asks so often that an answer makes nearly all room again");

  t.equal(sender.answerMs, 0, "nothing was answered");
  sender.taken(lastAsking(frames));
  t.ok(sender.answerMs > 0);
  await settled();
  const second = sentBytes(frames);
  t.ok(second > first + 400 * KiB, "what was taken makes room for more");

  sender.limitBacklog(64 * KiB);
  await settled();
  t.equal(sentBytes(frames), second);
  t.match(frames.at(-1), { rawLength: 0, askTaken: true }, "without bytes it asks how far it has got");
  sender.taken(frames.length);
  t.equal(sender.backlogBytes, 0);
  await settled();
  const third = sentBytes(frames) - second;
  t.ok(third >= 64 * KiB && third <= 128 * KiB, `${String(third)} bytes`);

  sender.limitBacklog(undefined);
  await settled();
  t.ok(sentBytes(frames) - second >= 512 * KiB, "as much as usual");

  sender.endTelling();
  hypervisor.end();
  await running;
  t.equal(sentBytes(frames), 4096 * KiB, "where nobody tells any more, what has left is not waited for");
});

await t.test(
  "a destination that takes nothing in is a stall, and a hypervisor that is quiet is none",
  async (t) => {
    const limits = { blockBytes: 32 * KiB, backlogBytes: 64 * KiB, stallMs: 200 };
    const { sender, hypervisor, frames, running } = startSender({ limits, tellsTaken: true });
    const ended = reasonOf(running);
    await until(() => frames.length > 8);
    say(hypervisor, 128 * KiB);
    await settled();
    sender.taken(lastAsking(frames));
    t.equal(await Promise.race([ended, settled().then(() => "goes on")]), "goes on");
    t.equal(await ended, "MOVE_STALLED");
  },
);

await t.test(
  "a destination that does not tell what it takes is sent to as fast as the network takes it",
  async (t) => {
    const limits = { blockBytes: 32 * KiB, backlogBytes: 64 * KiB };
    const { hypervisor, frames, running } = startSender({ limits });
    say(hypervisor, 1024 * KiB);
    hypervisor.end();
    await running;
    t.equal(sentBytes(frames), 1024 * KiB);
    t.notOk(frames.some(({ askTaken }) => askTaken));
  },
);

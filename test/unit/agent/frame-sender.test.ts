/** What becomes one frame of what a source's hypervisor writes. */
import type { ServerHttp2Stream } from "node:http2";
import { PassThrough, Writable } from "node:stream";
import { setImmediate } from "node:timers/promises";
import t from "tap";
import { plainBlock } from "#agent/migration/block.ts";
import { FrameSender } from "#agent/migration/frame-sender.ts";
import { LinkMeter } from "#agent/migration/link-meter.ts";
import { defaultLimits, maxMessageBytes } from "#agent/migration/protocol.ts";
import { Slabs } from "#agent/migration/slabs.ts";
import { MoveCounters } from "#agent/migration/stats.ts";
import { Throttle } from "#agent/migration/throttle.ts";
import { decodeFrame, MessageReader } from "#agent/migration/wire.ts";

const settled = async () => {
  for (let turn = 0; turn < 20; turn++) await setImmediate();
};

await t.test("what comes while a frame is under way goes out with the next, as one", async (t) => {
  const reader = new MessageReader(maxMessageBytes);
  const frames: string[] = [];
  let left: (() => void) | undefined;
  const network = new Writable({
    writev: (pieces: { readonly chunk: Buffer }[], done) => {
      for (const { chunk } of pieces) {
        for (const { bytes } of reader.push(chunk)) frames.push(decodeFrame(bytes).data.toString());
      }
      left = done;
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
    limits: defaultLimits,
  });
  const running = sender.run(AbortSignal.timeout(20_000));
  await settled();
  t.same(frames, [""], "the destination may connect");
  left?.();
  hypervisor.write("at once, ");
  await settled();
  t.same(frames, ["", "at once, "]);
  for (const piece of ["later, ", "but ", "together"]) {
    hypervisor.write(piece);
    await settled();
  }
  t.equal(frames.length, 2);
  left?.();
  await settled();
  t.same(frames, ["", "at once, ", "later, but together"]);
  hypervisor.end();
  left?.();
  await settled();
  left?.();
  await running;
  t.same(frames.slice(3), [""], "the end");
});

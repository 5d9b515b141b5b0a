/** Bytes of a move from one host's unix sockets to another's, over real mutual TLS; hypervisors are plain sockets. */
import { randomBytes } from "node:crypto";
import { EventEmitter, once } from "node:events";
import { writeFile } from "node:fs/promises";
import net, { type Socket } from "node:net";
import { join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import t from "tap";
import {
  PullRequestSchema,
  PullResponseSchema,
  type PullRequest,
  type PullResponse,
} from "#gen/skerry/agent/v1/migration_pb.js";
import { PageFiles } from "#agent/migration/pages/page-files.ts";
import { directOpener } from "#agent/migration/opener.ts";
import { protocolVersion, pullPath } from "#agent/migration/protocol.ts";
import { CodingWorkers, type CodingStream } from "#agent/migration/coding/workers.ts";
import { MoveSource } from "#agent/migration/source.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import {
  openDataPath,
  type DataPathMove,
  type DataPathOptions,
  type Sink,
} from "#test/support/data-path-world.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { memoryStream, type StreamPage } from "#test/support/memory-stream.ts";
import { StallingProxy } from "#test/support/stalling-proxy.ts";
import { until } from "#test/support/until.ts";

const { startMove, workers, sources, destination, port, directory } = await openDataPath(t);
const signal = AbortSignal.timeout(60_000);

await t.test(
  "what a hypervisor writes arrives whole and in order, and what the other answers comes back",
  async (t) => {
    const { puller, sinks, dial, source } = await startMove(t, { channels: ["memory", "disk:root"] });
    const running = puller.run(signal);
    const memory = await dial("memory");
    const disk = await dial("disk:root");
    const sent = Buffer.concat([randomBytes(5_000_000), Buffer.alloc(5_000_000, "a page of text ")]);
    const answers: Buffer[] = [];
    disk.on("data", (piece: Buffer) => answers.push(piece));
    const sink = sinks.get("disk:root") as Sink;
    sink.onData = (piece, socket) => socket.write(piece);
    memory.end(sent);
    for (let turn = 1; turn <= 20; turn++) {
      disk.write(Buffer.alloc(28, turn));
      await until(() => Buffer.concat(answers).length === turn * 28);
    }
    t.same(Buffer.concat(answers), sink.bytes);
    disk.end();
    await running;
    await until(() => [...sinks.values()].every(({ ends }) => ends === 1));
    t.ok(sinks.get("memory")?.bytes.equals(sent), "ten megabytes are the same");
    t.match(source.stats(), { bytes: { memoryRaw: sent.length, diskRaw: 560 }, corruptFrames: 0 });
    t.match(puller.stats(), { bytes: { memoryRaw: sent.length, diskRaw: 560 }, reconnects: 0 });
    t.equal(source.fault, undefined);
  },
);

await t.test("pages that both hosts have in the image do not travel", async (t) => {
  const image = randomBytes(400 * 4096);
  const path = join(directory, "image");
  await writeFile(path, image);
  const pages: StreamPage[] = Array.from({ length: 1000 }, (_, index) => {
    if (index % 2 === 0) return "zero";
    return index % 4 === 1
      ? image.subarray((index % 400) * 4096, ((index % 400) + 1) * 4096)
      : randomBytes(4096);
  });
  const stream = memoryStream(pages, randomBytes(100_000));
  const files = new PageFiles({ directory: join(directory, "raw"), log: silentLogger });
  const stage = { files, sources: [{ sha256: "a", path, format: "raw" as const }] };
  const { puller, sinks, dial, source } = await startMove(t, {
    source: { pages: stage },
    puller: { pages: stage },
  });
  const running = puller.run(signal);
  (await dial("memory")).end(stream);
  await running;
  const sink = sinks.get("memory") as Sink;
  await until(() => sink.ends === 1);
  t.ok(sink.bytes.equals(stream), "the stream is the same");
  const { bytes, pageStage } = source.stats();
  t.match({ ...bytes, pageStage }, { pageStage: true, memoryZero: 500 * 4096, memoryInImage: 250 * 4096 });
  t.ok(bytes.memoryWire < stream.length - 240 * 4096, `${bytes.memoryWire} of ${stream.length}`);

  const missing = {
    files,
    sources: [{ sha256: "b", path: join(directory, "absent"), format: "raw" as const }],
  };
  const without = await startMove(t, { source: { pages: stage }, puller: { pages: missing } });
  const again = without.puller.run(signal);
  (await without.dial("memory")).end(stream);
  await again;
  await until(() => without.sinks.get("memory")?.ends === 1);
  t.ok(without.sinks.get("memory")?.bytes.equals(stream));
  t.match(without.source.stats(), { pageStage: false, bytes: { memoryInImage: 0 } });
});

await t.test(
  "a move is pulled by the host it was promised to, with its ticket, until it expires",
  async (t) => {
    const pull = async (options: DataPathOptions) => {
      const { puller } = await startMove(t, options);
      return await reasonOf(puller.run(AbortSignal.timeout(60_000)));
    };
    t.equal(await pull({ puller: { ticket: randomBytes(32) } }), "MOVE_DENIED");
    t.equal(await pull({ source: { peerHostId: "host-c" } }), "MOVE_DENIED");
    t.equal(await pull({ source: { expiresAtMs: Date.now() - 1 } }), "MOVE_DENIED");
    t.equal(await pull({ puller: { channels: ["disk:other"] } }), "CHANNEL_UNKNOWN");
    const address = `127.0.0.1:${port}`;
    const wrongHost = directOpener({ address, hostId: "host-c", identity: destination });
    const limits = { openMs: 200 };
    t.equal(
      await pull({ puller: { openers: [wrongHost] }, limits }),
      "PEER_UNREACHABLE",
      "another host answers",
    );
  },
);

await t.test("a destination that is early is served as soon as the source knows of the move", async (t) => {
  const move = await startMove(t, { puller: { migrationId: "mig-later" } });
  const running = move.puller.run(signal);
  const later = await MoveSource.open({
    ...{ migrationId: "mig-later", channels: ["memory"], workers, log: silentLogger },
    ...{ ticket: move.ticket, peerHostId: "host-b", expiresAtMs: Date.now() + 60_000 },
    socketDirectory: join(directory, "later"),
  });
  await using _later = later;
  using _added = sources.add(later);
  const memory = net.connect(later.socketOf("memory"));
  memory.end("guest");
  await running;
  t.equal(move.puller.stats().reconnects, 0, "it did not have to ask again");
});

await t.test("a disk goes on after a cut, memory does not", async (t) => {
  await using proxy = await StallingProxy.start({ port });
  const disk = await startMove(t, { channels: ["disk:root"], port: proxy.port });
  const sink = disk.sinks.get("disk:root") as Sink;
  const running = disk.puller.run(signal);
  const first = await disk.dial("disk:root");
  first.write("before");
  await until(() => sink.bytes.toString() === "before");
  const closed = once(first, "close");
  proxy.cut();
  await closed; // as QEMU learns that it has to connect again
  const second = await disk.dial("disk:root");
  second.end(" and after");
  await running;
  await until(() => sink.bytes.toString() === "before and after");
  t.equal(sink.connections.length, 2, "and so does the other hypervisor");
  t.equal(disk.puller.stats().reconnects, 1);

  const memory = await startMove(t, { port: proxy.port });
  const failing = reasonOf(memory.puller.run(signal));
  const socket = await memory.dial("memory");
  socket.write("some");
  await until(() => memory.sinks.get("memory")?.bytes.length === 4);
  proxy.cut();
  t.equal(await failing, "MOVE_CUT");
  await until(() => memory.source.fault?.reason === "MOVE_CUT");
});

await t.test("memory that may go on does so on a hypervisor that was made ready for it", async (t) => {
  await using proxy = await StallingProxy.start({ port });
  const done: string[] = [];
  const dialled: Socket[] = [];
  const events = new EventEmitter<{ answer: [] }>();
  const moving: DataPathMove = await startMove(t, {
    port: proxy.port,
    puller: {
      resumable: () => true,
      ready: async () => void done.push("ready"),
      connect: async () => {
        const socket = await (moving.sinks.get("memory") as Sink).dial();
        done.push(`connection ${String(dialled.push(socket))}`);
        if (dialled.length === 1) await once(events, "answer");
        return socket;
      },
    },
  });
  const running = moving.puller.run(signal);
  const first = await moving.dial("memory");
  await until(() => dialled.length === 1);
  const closed = once(first, "close");
  proxy.cut();
  await closed;
  await until(() => moving.puller.stats().reconnects === 1);
  events.emit("answer");
  await until(() => dialled[0]?.destroyed === true); // a connection that came too late is not left open
  (await moving.dial("memory")).end("the rest");
  await running;
  t.strictSame(done, ["ready", "connection 1", "ready", "connection 2"]);
});

await t.test("a memory channel that was cut before anything was sent is opened again", async (t) => {
  await using proxy = await StallingProxy.start({ port });
  const { puller, sinks, dial } = await startMove(t, { port: proxy.port });
  const running = puller.run(signal);
  await until(() => proxy.connections === 1);
  proxy.cut();
  await until(() => puller.stats().reconnects > 0);
  (await dial("memory")).end("whole");
  await running;
  await until(() => sinks.get("memory")?.bytes.toString() === "whole");
});

await t.test("both ends notice a connection that is silent", async (t) => {
  await using proxy = await StallingProxy.start({ port });
  const { puller, sinks, dial, source } = await startMove(t, { port: proxy.port, limits: { stallMs: 400 } });
  const failing = reasonOf(puller.run(signal));
  const memory = await dial("memory");
  memory.write("quiet is no stall");
  await until(() => sinks.get("memory")?.bytes.length === 17);
  const lively = Date.now() + 1000;
  await until(() => Date.now() > lively); // more than twice the limit, with nothing to send but signs of life
  t.equal(source.fault, undefined);
  proxy.stall();
  memory.write(randomBytes(30_000_000));
  t.equal(await failing, "MOVE_STALLED");
  await until(() => source.fault?.reason === "MOVE_STALLED");
});

await t.test("the destination says why it gives up, and the other channels end with it", async (t) => {
  const connect = async (channel: string) => {
    if (channel === "memory") throw new Fault("conflict", "it is gone", { reason: "MOVE_LOST" });
    return (moving.sinks.get(channel) as Sink).dial();
  };
  const moving = await startMove(t, { channels: ["memory", "disk:root"], puller: { connect } });
  const failing = reasonOf(moving.puller.run(signal));
  const disk = await moving.dial("disk:root");
  const diskClosed = once(disk, "close");
  disk.write("x");
  await until(() => moving.sinks.get("disk:root")?.bytes.length === 1);
  const memory = await moving.dial("memory");
  const memoryClosed = once(memory, "close");
  t.equal(await failing, "MOVE_LOST");
  await Promise.all([diskClosed, memoryClosed]);
  t.match(moving.source.fault, { reason: "MOVE_ABORTED", detail: { reason: "MOVE_LOST" } });
});

await t.test("any gRPC client can pull", async (t) => {
  const { dial, source: moving, ticket } = await startMove(t);
  const { migrationId } = moving;
  const { ca, key, cert } = destination.credentials;
  const secure = grpc.credentials.createSsl(Buffer.from(ca), Buffer.from(key), Buffer.from(cert), {
    checkServerIdentity: () => undefined,
  });
  const client = new grpc.Client(`127.0.0.1:${port}`, secure);
  t.teardown(() => client.close());
  const write = (request: PullRequest) => Buffer.from(toBinary(PullRequestSchema, request));
  const read = (bytes: Buffer) => fromBinary(PullResponseSchema, bytes);
  const call = client.makeBidiStreamRequest(pullPath, write, read);
  const frames: PullResponse[] = [];
  const over = new Promise<grpc.StatusObject>((resolve) => call.once("status", resolve));
  call.on("data", (frame: PullResponse) => frames.push(frame));
  const open = { version: protocolVersion, migrationId, channel: "memory", ticket };
  call.write(create(PullRequestSchema, { message: { case: "open", value: open } }));
  const memory = await dial("memory");
  await until(() => frames.length === 1);
  call.write(create(PullRequestSchema, { message: { case: "data", value: Buffer.from("go on") } }));
  t.equal(String(await once(memory, "data")), "go on");
  memory.end("all there is");
  t.equal((await over).code, grpc.status.OK);
  t.equal(frames.map(({ data }) => Buffer.from(data).toString()).join(""), "all there is");
  t.equal(frames.at(-1)?.end, true);
});

await t.test("damaged frames never reach the hypervisor", async (t) => {
  // Damages what the workers give, as a broken machine would: the sum was made before.
  const damaging = new CodingWorkers({ log: silentLogger });
  const openStream = damaging.openStream.bind(damaging);
  damaging.openStream = () => {
    const stream = openStream();
    const run: CodingStream["run"] = async (task) => {
      const result = await stream.run(task);
      if (task.type === "encode") task.target[5000] = (task.target[5000] ?? 0) ^ 1;
      return result;
    };
    return { run, [Symbol.dispose]: () => stream[Symbol.dispose]() };
  };
  const { puller, sinks, dial } = await startMove(t, { source: { workers: damaging } });
  const failing = reasonOf(puller.run(signal));
  (await dial("memory")).write(Buffer.concat([randomBytes(300_000), Buffer.alloc(100_000)]));
  t.equal(await failing, "MOVE_CORRUPTED");
  t.equal(sinks.get("memory")?.bytes.length, 0);
  t.equal(puller.stats().corruptFrames, 1);
});

await t.test("a slow hypervisor slows the other down instead of filling memory", async (t) => {
  const { puller, sinks, dial } = await startMove(t, { limits: { windowBytes: 1024 * 1024 } });
  const sink = sinks.get("memory") as Sink;
  sink.onData = (_piece, socket) => socket.pause();
  const stop = new AbortController();
  const running = reasonOf(puller.run(stop.signal));
  const memory = await dial("memory");
  let accepted = 0;
  // Each unlike those before, or next to nothing of it would travel.
  const feed = () => {
    while (accepted < 200 && memory.write(randomBytes(1_000_000))) accepted++;
  };
  memory.on("drain", feed);
  feed();
  let seen = -1;
  await until(async () => {
    const before = seen;
    seen = memory.bytesWritten - memory.writableLength;
    await new Promise((resolve) => setTimeout(resolve, 300));
    return seen > 0 && seen === before;
  });
  t.ok(seen < 36_000_000, `${seen} bytes are under way`);
  stop.abort();
  t.equal(await running, "CANCELLED");
});

await t.test("all channels together keep to the limit", async (t) => {
  const limits = { bytesPerSecond: 1_000_000 };
  const { puller, dial, source } = await startMove(t, { channels: ["memory", "disk:root"], limits });
  const startedAt = performance.now();
  const running = puller.run(signal);
  for (const channel of ["memory", "disk:root"]) (await dial(channel)).end(randomBytes(700_000));
  await running;
  const seconds = (performance.now() - startedAt) / 1000;
  t.ok(seconds > 1, `${seconds} s`);
  t.ok(source.stats().throughput < 1_500_000);
});

/** One host of the benchmark `data-path`, as a process of its own, so that its CPU time and memory are its own. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import http2, { type Http2ServerRequest } from "node:http2";
import net, { type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import type { Credentials } from "#agent/control/identity.ts";
import { CodingWorkers } from "#agent/migration/coding/workers.ts";
import { directOpener } from "#agent/migration/opener.ts";
import { MovePuller } from "#agent/migration/puller.ts";
import { createPullHandler, MoveSources } from "#agent/migration/pull-handler.ts";
import { MoveSource } from "#agent/migration/source.ts";
import { silentLogger } from "#kernel/log.ts";

export interface EndConfig {
  /** Writer and reader stand for the hypervisors. */
  readonly role: "source" | "destination" | "writer" | "reader";
  readonly socket: string;
  readonly credentials: Credentials;
  readonly port: number;
  readonly codecs: readonly Codec[];
  readonly bytesPerSecond: number;
  readonly megabytes: number;
}

const migrationId = "mig-bench";
const ticket = Buffer.alloc(32, 1);
const log = silentLogger;
const say = (message: unknown) => process.stdout.write(`${JSON.stringify(message)}\n`);

/** The threads' start is no part of what is measured. */
async function started(workers: CodingWorkers): Promise<Disposable> {
  const use = workers.use();
  const awake = setInterval(() => undefined, 1000); // the threads alone do not keep the process
  await workers.runOnAll({ type: "close-pages", pageSet: 0 });
  clearInterval(awake);
  return use;
}

/** Half text-like, a quarter noise, a quarter pointers and small numbers: about what memory compresses to. */
function mixedMegabyte(seed: number): Buffer {
  const block = Buffer.allocUnsafe(1024 * 1024);
  const words = Array.from({ length: 2000 }, (_, index) => `${(index * 2654435761 * seed) % 99991} `);
  let at = 0;
  for (let turn = seed; at < 512 * 1024; turn = (turn * 48271) % 2147483647) {
    at += block.write(words[turn % words.length] ?? "", at);
  }
  randomBytes(256 * 1024).copy(block, 512 * 1024);
  for (let word = 768 * 1024; word < block.length; word += 8) {
    block.writeBigUInt64LE(0x7f0000000000n + BigInt(((word * 7919 * seed) % 65536) * 16), word);
  }
  return block;
}

async function runSource({ credentials, bytesPerSecond, megabytes }: EndConfig): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "bench-"));
  await using workers = new CodingWorkers({ log });
  using _running = await started(workers);
  const sources = new MoveSources();
  const handle = createPullHandler({ sources, log });
  const server = http2.createSecureServer(
    { ...credentials, requestCert: true },
    (request: Http2ServerRequest) => {
      handle(request.stream, request.headers, "host-b");
    },
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  await using source = await MoveSource.open({
    ...{ migrationId, ticket, workers, log, peerHostId: "host-b", channels: ["memory"] },
    expiresAtMs: Date.now() + 600_000,
    socketDirectory: directory,
    limits: { bytesPerSecond },
  });
  using _added = sources.add(source);
  const [cpuBefore, startedAt] = [process.cpuUsage(), performance.now()];
  say({ port: (server.address() as AddressInfo).port, socket: source.socketOf("memory") });
  while (source.stats().bytes.memoryRaw < megabytes * 1024 * 1024) await pause(10);
  report(cpuBefore, startedAt, source.stats());
  await once(process, "SIGTERM"); // the last frames may still be under way
  server.close();
  await rm(directory, { recursive: true });
}

async function runDestination({ credentials, port, codecs, socket }: EndConfig): Promise<void> {
  await using workers = new CodingWorkers({ log });
  using _running = await started(workers);
  const puller = new MovePuller({
    ...{ migrationId, ticket, workers, codecs, log, channels: ["memory"] },
    openers: [directOpener({ address: `127.0.0.1:${port}`, hostId: "host-a", identity: { credentials } })],
    connect: async () => net.connect(socket),
  });
  const [cpuBefore, startedAt] = [process.cpuUsage(), performance.now()];
  await puller.run(AbortSignal.timeout(300_000));
  report(cpuBefore, startedAt, puller.stats());
}

async function runWriter({ socket, megabytes }: EndConfig): Promise<void> {
  const blocks = Array.from({ length: 64 }, (_, index) => mixedMegabyte(index + 1));
  const connection = net.connect(socket);
  for (let sent = 0; sent < megabytes; sent++) {
    if (!connection.write(blocks[sent % blocks.length] ?? "")) await once(connection, "drain");
  }
  connection.end();
}

async function runReader({ socket }: EndConfig): Promise<void> {
  const server = net.createServer((connection) => {
    connection.resume().on("end", () => server.close());
  });
  server.listen(socket);
  await once(server, "listening");
  say({});
}

function report(cpuBefore: NodeJS.CpuUsage, startedAt: number, stats: ReturnType<MovePuller["stats"]>): void {
  const { user, system } = process.cpuUsage(cpuBefore);
  const seconds = (performance.now() - startedAt) / 1000;
  const maxRssMib = process.resourceUsage().maxRSS / 1024;
  say({ ...stats, seconds, maxRssMib, cpuSeconds: (user + system) / 1e6 });
}

const config = JSON.parse(process.argv[2] ?? "{}") as EndConfig;
const roles = { source: runSource, destination: runDestination, writer: runWriter, reader: runReader };
await roles[config.role](config);

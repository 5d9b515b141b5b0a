/** Two halves of moves, with real mutual TLS in between; the hypervisors at their ends are plain sockets. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import http2, { type Http2ServerRequest } from "node:http2";
import net, { type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import type { Test } from "tap";
import { CodingWorkers } from "#agent/migration/coding/workers.ts";
import { directOpener } from "#agent/migration/opener.ts";
import type { MoveLimits } from "#agent/migration/protocol.ts";
import { createPullHandler, isPull, MoveSources } from "#agent/migration/pull-handler.ts";
import { MovePuller, type MovePullerOptions } from "#agent/migration/puller.ts";
import { MoveSource, type MoveSourceOptions } from "#agent/migration/source.ts";
import { silentLogger } from "#kernel/log.ts";
import { peerOf } from "#kernel/peer.ts";
import { TransportWorld } from "./transport-world.ts";

/** A destination's hypervisor: takes connections on a socket, keeps what comes, answers. */
export class Sink {
  readonly connections: Socket[] = [];
  readonly received: Buffer[] = [];
  ends = 0;
  readonly path: string;
  readonly #server = net.createServer({ allowHalfOpen: true }, (socket) => {
    this.connections.push(socket);
    socket.on("data", (piece: Buffer) => {
      this.received.push(piece);
      this.onData?.(piece, socket);
    });
    socket.on("end", () => {
      this.ends++;
      socket.end();
    });
    socket.on("error", () => undefined); // a test cuts it
  });
  onData: ((piece: Buffer, socket: Socket) => void) | undefined;

  private constructor(path: string) {
    this.path = path;
  }

  static async listen(t: Test, path: string): Promise<Sink> {
    const sink = new Sink(path);
    sink.#server.listen(sink.path);
    await once(sink.#server, "listening");
    t.teardown(() => {
      for (const socket of sink.connections) socket.destroy();
      sink.#server.close();
    });
    return sink;
  }

  get bytes(): Buffer {
    return Buffer.concat(this.received);
  }

  async dial(): Promise<Socket> {
    const socket = net.connect({ path: this.path, allowHalfOpen: true });
    await once(socket, "connect");
    return socket;
  }
}

export interface DataPathMove {
  readonly ticket: Buffer;
  readonly source: MoveSource;
  readonly puller: MovePuller;
  readonly sinks: Map<string, Sink>;
  /** As the source's hypervisor. */
  readonly dial: (channel: string) => Promise<Socket>;
}

export interface DataPathOptions {
  readonly channels?: readonly string[];
  readonly limits?: Partial<MoveLimits>;
  readonly source?: Partial<MoveSourceOptions>;
  readonly puller?: Partial<MovePullerOptions>;
  readonly port?: number;
}

/** What the moves of one test file have in common; it ends with the file. */
export async function openDataPath(file: Pick<Test, "teardown">) {
  const world = await TransportWorld.start();
  const [source, destination] = [await world.join("a"), await world.join("b")];
  const workers = new CodingWorkers({ log: silentLogger });
  const sources = new MoveSources();
  const handlePull = createPullHandler({ sources, log: silentLogger });
  const server = http2.createSecureServer(
    { ...source.credentials, requestCert: true, rejectUnauthorized: true },
    (request: Http2ServerRequest) => {
      const certificate = (request.socket as TLSSocket).getPeerX509Certificate();
      const peer = certificate && peerOf(certificate);
      if (isPull(request.headers)) handlePull(request.stream, request.headers, peer?.name ?? "");
    },
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const port = (server.address() as AddressInfo).port;
  const directory = await mkdtemp(join(tmpdir(), "move-"));
  file.teardown(async () => {
    server.close();
    await world[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });
  let count = 0;

  async function startMove(t: Test, options: DataPathOptions = {}): Promise<DataPathMove> {
    const { channels = ["memory"], limits = {} } = options;
    const migrationId = `mig-${count++}`;
    const ticket = randomBytes(32);
    const moving = await MoveSource.open({
      ...{ migrationId, ticket, channels, limits, workers, log: silentLogger },
      peerHostId: "host-b",
      expiresAtMs: Date.now() + 60_000,
      socketDirectory: join(directory, migrationId),
      ...options.source,
    });
    const added = sources.add(moving);
    t.teardown(async () => {
      added[Symbol.dispose]();
      await moving[Symbol.asyncDispose]();
    });
    const sinks = new Map<string, Sink>();
    for (const channel of channels)
      sinks.set(channel, await Sink.listen(t, join(directory, `sink-${count++}.sock`)));
    const address = `127.0.0.1:${options.port ?? port}`;
    const puller = new MovePuller({
      ...{ migrationId, ticket, channels, limits, workers, log: silentLogger },
      openers: [directOpener({ address, hostId: "host-a", identity: destination })],
      connect: async (channel) => (sinks.get(channel) as Sink).dial(),
      ...options.puller,
    });
    const dial = async (channel: string) => {
      const socket = net.connect({ path: moving.socketOf(channel), allowHalfOpen: true });
      socket.on("error", () => undefined); // a test cuts it
      socket.on("end", () => socket.end()).resume();
      await once(socket, "connect");
      return socket;
    };
    return { ticket, source: moving, puller, sinks, dial };
  }

  return { startMove, workers, sources, destination, port, directory };
}

/** Carries moves between hosts of one process: what a hypervisor writes into its socket goes straight to the other's. */
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import type { MoveCargo, MoveOffer, MovePull, MoveTransport } from "#agent/machines/move-transport.ts";
import { MoveCounters } from "#agent/migration/stats.ts";
import { Fault } from "#kernel/fault.ts";
import { cancelled } from "#kernel/stall.ts";
import { until } from "./until.ts";

/** Where a channel's connections wait for whoever pulls. */
class Lane {
  #waiting: Socket | undefined;
  #taker: ((socket: Socket) => void) | undefined;

  put(socket: Socket): void {
    const taker = this.#taker;
    this.#taker = undefined;
    if (taker) taker(socket);
    else this.#waiting = socket;
  }

  get isTaken(): boolean {
    return this.#taker !== undefined;
  }

  take(signal: AbortSignal): Promise<Socket> {
    if (signal.aborted) return Promise.reject(cancelled(signal));
    const socket = this.#waiting;
    this.#waiting = undefined;
    if (socket) return Promise.resolve(socket);
    return new Promise((resolve, reject) => {
      this.#taker = resolve;
      const leave = () => {
        if (this.#taker === resolve) this.#taker = undefined;
        reject(cancelled(signal));
      };
      signal.addEventListener("abort", leave, { once: true });
    });
  }
}

export class PipedMoves implements MoveTransport {
  readonly #lanes = new Map<string, Lane>();
  readonly #flowing = new Map<Socket, string>();

  /** Cuts the connections of a channel that bytes flow through now; how many there were. */
  cut(channel: string): number {
    const sockets = [...this.#flowing].filter(([, name]) => name === channel);
    for (const [socket] of sockets) socket.destroy();
    return sockets.length;
  }

  async offer({ move, plan, channels }: MoveCargo): Promise<MoveOffer> {
    const counters = new MoveCounters();
    const socketOf = (channel: string) => join(plan.directory, `${channel.replace(":", "-")}.sock`);
    const sockets = new Set<Socket>();
    const servers: Server[] = [];
    for (const channel of channels) {
      await rm(socketOf(channel), { force: true });
      const server = createServer({ pauseOnConnect: true }, (socket) => {
        sockets.add(socket);
        socket.on("error", () => socket.destroy());
        socket.on("data", (data) => {
          counters.count(channel, { rawBytes: data.length, wireBytes: data.length });
        });
        socket.pause();
        this.#lane(move.migrationId, channel).put(socket);
      });
      server.listen(socketOf(channel));
      await once(server, "listening");
      servers.push(server);
    }
    return {
      fault: undefined,
      socketOf,
      awaitPulls: (signal) =>
        until(() => signal.aborted || channels.every((channel) => this.#isPulled(move.migrationId, channel))),
      stats: () => counters.snapshot(),
      [Symbol.asyncDispose]: async () => {
        for (const socket of sockets) socket.destroy();
        for (const server of servers) server.close();
      },
    };
  }

  pull({ move, channels, connect }: Parameters<MoveTransport["pull"]>[0]): MovePull {
    const stop = new AbortController();
    const counters = new MoveCounters();
    let isWhole = false;
    let goesOn = false;
    const pullOne = async (channel: string) => {
      do {
        const socket = await this.#lane(move.migrationId, channel).take(stop.signal);
        const end = await connect(channel, stop.signal).catch((thrown: unknown) => {
          socket.destroy();
          throw thrown;
        });
        await this.#pipe(channel, socket, end, stop.signal);
        // The disk's connection may come back for as long as the memory is on its way.
        isWhole ||= !goesOn && (channel === "memory" || channels.length === 1);
      } while (!isWhole);
    };
    const ended = Promise.any(channels.map(pullOne)).then(
      () => undefined,
      (thrown: AggregateError) => Promise.reject(thrown.errors[0] as Error),
    );
    return {
      ended,
      enterPostCopy: () => void (goesOn = true),
      stats: () => counters.snapshot(),
      [Symbol.asyncDispose]: async () => {
        stop.abort(new Fault("unavailable", "the move is over here", { reason: "MOVE_OVER" }));
      },
    };
  }

  async #pipe(channel: string, from: Socket, to: Duplex, signal: AbortSignal): Promise<void> {
    this.#flowing.set(from, channel);
    const close = () => {
      from.destroy();
      to.destroy();
    };
    signal.addEventListener("abort", close, { once: true });
    to.on("error", close).on("close", close);
    from.pipe(to).pipe(from);
    await new Promise<void>((resolve) => from.once("close", resolve));
    close();
    this.#flowing.delete(from);
  }

  #isPulled(migrationId: string, channel: string): boolean {
    return this.#lane(migrationId, channel).isTaken || [...this.#flowing.values()].includes(channel);
  }

  #lane(migrationId: string, channel: string): Lane {
    const key = `${migrationId}/${channel}`;
    const lane = this.#lanes.get(key) ?? new Lane();
    this.#lanes.set(key, lane);
    return lane;
  }
}

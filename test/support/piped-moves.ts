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
    if (socket?.destroyed === false) return Promise.resolve(socket);
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

interface Flow {
  readonly migrationId: string;
  readonly channel: string;
}

export class PipedMoves implements MoveTransport {
  readonly #lanes = new Map<string, Lane>();
  readonly #flowing = new Map<Socket, Flow>();
  #ends = 0;

  /** Cuts the connections of a channel, of one migration or of all, that bytes flow through now; how many there were. */
  cut(channel: string, migrationId?: string): number {
    const sockets = this.#find(migrationId).filter(([, flow]) => flow.channel === channel);
    for (const [socket] of sockets) socket.destroy();
    return sockets.length;
  }

  /** Channels that somebody offers, pulls or has bytes flowing through. */
  get open(): number {
    return this.#ends + this.#flowing.size;
  }

  /** Nothing passes for a while; how many connections that holds up. */
  stall(forMs: number, migrationId?: string): number {
    const sockets = this.#find(migrationId);
    for (const [socket] of sockets) socket.pause();
    setTimeout(() => {
      for (const [socket] of sockets) socket.resume();
    }, forMs);
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
    const close = this.#begin();
    return {
      fault: undefined,
      socketOf,
      hold: (channel) => ({ path: socketOf(channel), release: () => false, close: () => undefined }),
      awaitPulls: async (limitMs, signal) => {
        const arePulled = () => channels.every((channel) => this.#isPulled(move.migrationId, channel));
        const late = performance.now() + limitMs;
        await until(() => signal.aborted || arePulled() || performance.now() > late);
        return arePulled();
      },
      stats: () => counters.snapshot(),
      [Symbol.asyncDispose]: async () => {
        close();
        for (const socket of sockets) socket.destroy();
        for (const server of servers) server.close();
      },
    };
  }

  pull({ move, channels, ready, connect }: Parameters<MoveTransport["pull"]>[0]): MovePull {
    const stop = new AbortController();
    const counters = new MoveCounters();
    const close = this.#begin();
    let isWhole = false;
    let goesOn = false;
    const { migrationId } = move;
    const pullOne = async (channel: string) => {
      do {
        await ready?.(channel, stop.signal);
        const socket = await this.#lane(migrationId, channel).take(stop.signal);
        const end = await connect(channel, stop.signal).catch((thrown: unknown) => {
          socket.destroy();
          throw thrown;
        });
        await this.#pipe({ migrationId, channel }, socket, end, stop.signal);
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
        close();
        stop.abort(new Fault("unavailable", "the move is over here", { reason: "MOVE_OVER" }));
      },
    };
  }

  /** An end is open until it is closed, once or more. */
  #begin(): () => void {
    let open = true;
    this.#ends++;
    return () => {
      if (open) this.#ends--;
      open = false;
    };
  }

  async #pipe(flow: Flow, from: Socket, to: Duplex, signal: AbortSignal): Promise<void> {
    this.#flowing.set(from, flow);
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
    const flows = this.#find(migrationId).some(([, flow]) => flow.channel === channel);
    return flows || this.#lane(migrationId, channel).isTaken;
  }

  #find(migrationId: string | undefined): readonly (readonly [Socket, Flow])[] {
    const wanted = (flow: Flow) => migrationId === undefined || flow.migrationId === migrationId;
    return [...this.#flowing].filter(([, flow]) => wanted(flow));
  }

  #lane(migrationId: string, channel: string): Lane {
    const key = `${migrationId}/${channel}`;
    const lane = this.#lanes.get(key) ?? new Lane();
    this.#lanes.set(key, lane);
    return lane;
  }
}

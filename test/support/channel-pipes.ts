/** Plain pipes between the hypervisors of two drivers on this machine: a move's data path without agents. */
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import type { LiveMigration } from "#agent/drivers/driver.ts";

/** Joins each channel's two ends, as two agents would. */
export class ChannelPipes implements AsyncDisposable {
  readonly #directory: string;
  readonly #servers: Server[] = [];
  readonly #open = new Set<Socket | Duplex>();

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** @param directory where the sources' hypervisor finds the sockets */
  static async lay(id: string, directory: string, destination: LiveMigration): Promise<ChannelPipes> {
    const pipes = new ChannelPipes(directory);
    for (const channel of await destination.listChannels(id)) {
      const connect = () => destination.connectChannel(id, channel, AbortSignal.timeout(60_000));
      await pipes.#serve(channel, connect);
    }
    return pipes;
  }

  readonly socketOf = (channel: string) => join(this.#directory, `${channel.replace(":", "-")}.pipe`);

  async #serve(channel: string, connect: () => Promise<Duplex>): Promise<void> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      connect().then(
        (other) => this.#join(socket, other),
        () => socket.destroy(),
      );
    });
    this.#servers.push(server);
    await new Promise<void>((resolve) => server.listen(this.socketOf(channel), resolve));
  }

  #join(one: Socket, other: Duplex): void {
    for (const [end, far] of [
      [one, other],
      [other, one],
    ] as const) {
      this.#open.add(end);
      end.on("error", () => far.destroy());
      end.once("close", () => {
        this.#open.delete(end);
        far.destroy();
      });
    }
    one.pipe(other);
    other.pipe(one);
    one.resume();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#open) end.destroy();
    for (const server of this.#servers) await new Promise<void>((resolve) => server.close(() => resolve()));
  }
}

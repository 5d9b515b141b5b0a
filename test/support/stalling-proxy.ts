/**
 * A TCP proxy that can go silent without closing anything: what a cut cable, a dead NAT entry or a frozen
 * host looks like to both ends.
 */
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

export class StallingProxy implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Of connections that nothing passes any more, whatever is said later. */
  readonly #dead = new Set<Socket>();
  #stalled = false;
  #damaging = false;
  #refusing = false;

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.port = port;
  }

  /** Passes everything on to `target`. Listens on a free port of loopback unless told where. */
  static async start(
    target: { readonly host?: string; readonly port: number },
    listen: { readonly host: string; readonly port: number } = { host: "127.0.0.1", port: 0 },
  ): Promise<StallingProxy> {
    const server = createServer();
    server.listen(listen.port, listen.host);
    await once(server, "listening");
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("the proxy has no port");
    const proxy = new StallingProxy(server, address.port);
    server.on("connection", (client) => proxy.#join(client, target));
    return proxy;
  }

  get connections(): number {
    return this.#sockets.size / 2;
  }

  /** From now on nothing passes in either direction; new connections are accepted and stay silent. */
  stall(): void {
    this.#stalled = true;
    for (const socket of this.#sockets) socket.pause();
  }

  /** Lets everything flow again, what was held back first. */
  resume(): void {
    this.#stalled = false;
    for (const socket of this.#sockets) socket.resume();
  }

  /** Loses every connection without a word to either end; new ones are as good as before. */
  lose(): void {
    for (const socket of this.#sockets) {
      socket.pause();
      this.#dead.add(socket);
    }
    this.#sockets.clear();
  }

  /** Resets every connection. */
  cut(): void {
    for (const socket of [...this.#sockets, ...this.#dead]) socket.resetAndDestroy();
  }

  /** Resets every connection, and those that are tried. */
  refuse(refusing = true): void {
    this.#refusing = refusing;
    if (refusing) this.cut();
  }

  /** Turns a bit round in the next bytes that pass, unless it is called off before there are any. */
  damage(damaging = true): void {
    this.#damaging = damaging;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    this.#server.close();
    await once(this.#server, "close");
  }

  #join(client: Socket, target: { readonly host?: string; readonly port: number }): void {
    if (this.#refusing) return void client.resetAndDestroy();
    const upstream = connect({ host: target.host ?? "127.0.0.1", port: target.port });
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      this.#sockets.add(from);
      from.on("data", (data) => {
        if (this.#damaging) data[data.length >> 1]! ^= 1;
        this.#damaging = false;
        if (!to.write(data)) {
          from.pause();
          to.once("drain", () => {
            if (!this.#stalled && this.#sockets.has(from)) from.resume();
          });
        }
      });
      from.on("end", () => to.end());
      from.on("error", () => to.destroy()); // one end is gone: the other has to learn it
      from.on("close", () => {
        this.#sockets.delete(from);
        this.#dead.delete(from);
      });
      if (this.#stalled) from.pause();
    }
  }
}

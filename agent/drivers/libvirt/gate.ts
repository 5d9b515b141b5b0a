/**
 * A door between libvirt and a channel of a move. It takes libvirt's connection at once and lets nothing through until it
 * is opened; meanwhile the guest's memory waits in QEMU, and the guest runs on.
 */
import { chmod, rm } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";

export class Gate implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #onKnock: () => void;
  #behind: string | undefined;
  #hasKnocked = false;

  private constructor(onKnock: () => void) {
    this.#onKnock = onKnock;
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) =>
      this.#take(socket),
    );
  }

  /** Listens at a path. @param onKnock somebody has connected */
  static async listen(path: string, onKnock: () => void): Promise<Gate> {
    await rm(path, { force: true });
    const gate = new Gate(onKnock);
    await new Promise<void>((resolve, reject) => {
      gate.#server.once("error", reject);
      gate.#server.listen(path, resolve);
    });
    await chmod(path, 0o600);
    return gate;
  }

  /** Somebody has connected, once. */
  get hasKnocked(): boolean {
    return this.#hasKnocked;
  }

  get isOpen(): boolean {
    return this.#behind !== undefined;
  }

  /** Lets everything through to the socket at `path`. */
  open(path: string): void {
    if (this.#behind !== undefined) return;
    this.#behind = path;
    for (const socket of this.#sockets) this.#join(socket, path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #take(socket: Socket): void {
    this.#sockets.add(socket);
    this.#hasKnocked = true;
    // That it broke is libvirt's to tell: the move fails.
    socket.on("error", () => socket.destroy());
    socket.once("close", () => this.#sockets.delete(socket));
    if (this.#behind !== undefined) this.#join(socket, this.#behind);
    this.#onKnock();
  }

  #join(socket: Socket, path: string): void {
    const other = connect({ path, allowHalfOpen: true });
    other.on("error", () => socket.destroy());
    other.once("close", () => socket.destroy());
    socket.once("close", () => other.destroy());
    socket.pipe(other);
    other.pipe(socket);
    socket.resume();
  }
}

/**
 * Where the source's hypervisor connects for one channel. It has one connection per channel at a time, so a
 * new one means that it has given up the last, whatever that one's socket still says.
 */
import { chmod, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { Fault } from "#kernel/fault.ts";

/** What the kernel takes as the path of a unix socket, without its final zero. */
const maxPathBytes = 107;

export class HypervisorListener implements AsyncDisposable {
  readonly path: string;
  readonly #server: Server;
  readonly #onConnection: () => void;
  #waiting: Socket | undefined;
  readonly #forget = () => {
    if (this.#waiting?.destroyed === true) this.#waiting = undefined;
  };

  private constructor(path: string, onConnection: () => void) {
    this.path = path;
    this.#onConnection = onConnection;
    // Half-open, because the end of what one hypervisor says is not the end of what the other answers.
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      this.#keep(socket);
    });
  }

  /**
   * Listens at a path, also when a socket of an earlier agent still lies there.
   * @param onConnection there is something to {@link take}
   */
  static async listen(path: string, onConnection: () => void): Promise<HypervisorListener> {
    if (Buffer.byteLength(path) > maxPathBytes) {
      throw new Fault("internal", "the path of a migration socket is too long", {
        reason: "SOCKET_PATH_TOO_LONG",
        cause: new Error(path),
      });
    }
    await rm(path, { force: true });
    const listener = new HypervisorListener(path, onConnection);
    await new Promise<void>((resolve, reject) => {
      listener.#server.once("error", reject);
      listener.#server.listen(path, resolve);
    });
    await chmod(path, 0o600);
    return listener;
  }

  /** The hypervisor's connection that nobody has taken yet, paused. */
  take(): Socket | undefined {
    const socket = this.#waiting;
    this.#waiting = undefined;
    socket?.off("error", this.#forget).off("close", this.#forget);
    return socket;
  }

  get waiting(): boolean {
    return this.#waiting !== undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#waiting?.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await rm(this.path, { force: true });
  }

  #keep(socket: Socket): void {
    this.#waiting?.destroy();
    this.#waiting = socket;
    socket.once("error", this.#forget).once("close", this.#forget);
    this.#onConnection();
  }
}

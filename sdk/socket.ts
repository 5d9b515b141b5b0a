/**
 * A WebSocket as an async iterable of frames. In browsers, which cannot set headers, the token travels as
 * a subprotocol; elsewhere it is the `ws` package with an Authorization header.
 */
import { Fault } from "#kernel/fault.ts";
import { cancelled, toResponseFault } from "./faults.ts";

export interface Socket {
  /** Binary frames as bytes, text frames as text, until the connection closes. One reader. */
  readonly frames: AsyncIterable<Uint8Array | string>;
  send(bytes: Uint8Array): void;
  close(): void;
}

export interface SocketTarget {
  /** ws: or wss:. */
  readonly url: string;
  readonly authorization: string | undefined;
  /** Limits connecting. */
  readonly signal: AbortSignal;
}

export type SocketFactory = (target: SocketTarget) => Promise<Socket>;

/** The part of the standard's WebSocket that both implementations share. */
interface StandardSocket {
  binaryType: string;
  send(data: Uint8Array): void;
  close(): void;
  addEventListener(type: "open" | "close" | "error", listener: () => void): void;
  addEventListener(type: "message", listener: (event: { readonly data: unknown }) => void): void;
}

const subprotocol = "skerry.console.v1";

interface Opening {
  readonly socket: StandardSocket;
  /** The fault that the upgrade was answered with; never settles where that cannot be known. */
  readonly refusal: Promise<Fault>;
}

/** Opens a WebSocket; fails with the fault that the server answered the upgrade with. */
export async function connectSocket(target: SocketTarget): Promise<Socket> {
  const { socket, refusal } = "document" in globalThis ? openInBrowser(target) : await openInNode(target);
  socket.binaryType = "arraybuffer";
  const frames = new FrameQueue(socket);
  const abort = () => socket.close();
  target.signal.addEventListener("abort", abort, { once: true });
  if (target.signal.aborted) abort();
  try {
    await new Promise<void>((resolve, reject) => {
      const fail = () =>
        reject(new Fault("unavailable", "the connection failed", { reason: "CONNECTION_FAILED" }));
      socket.addEventListener("open", resolve);
      socket.addEventListener("error", fail);
      socket.addEventListener("close", fail);
      void refusal.then(reject);
    });
  } catch (thrown) {
    throw target.signal.aborted ? cancelled(target.signal) : thrown;
  } finally {
    target.signal.removeEventListener("abort", abort);
  }
  return { frames, send: (bytes) => socket.send(bytes), close: () => socket.close() };
}

function openInBrowser({ url, authorization }: SocketTarget): Opening {
  const { WebSocket } = globalThis as unknown as {
    WebSocket: new (url: string, protocols: readonly string[]) => StandardSocket;
  };
  const token = authorization?.split(" ")[1];
  const socket = new WebSocket(url, [subprotocol, ...(token ? [`bearer.${token}`] : [])]);
  return { socket, refusal: new Promise(() => undefined) };
}

async function openInNode({ url, authorization }: SocketTarget): Promise<Opening> {
  const { WebSocket } = await import("ws");
  const headers = { accept: "application/problem+json", ...(authorization && { authorization }) };
  const socket = new WebSocket(url, { headers });
  const refusal = new Promise<Fault>((resolve) => {
    // Once somebody listens for this, ws leaves it to them to end the connection.
    socket.on("unexpected-response", (_request, response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => {
        const answer = new Response(Buffer.concat(chunks), { status: response.statusCode ?? 500 });
        void toResponseFault(answer).then((fault) => {
          resolve(fault);
          socket.terminate();
        });
      });
    });
  });
  return { socket: socket, refusal };
}

/** Frames that came and were not read yet. The reader drives: it is woken by the next frame or the end. */
class FrameQueue implements AsyncIterable<Uint8Array | string> {
  readonly #frames: (Uint8Array | string)[] = [];
  #ended = false;
  #wake: () => void = () => undefined;

  constructor(socket: StandardSocket) {
    socket.addEventListener("message", ({ data }) => {
      this.#frames.push(typeof data === "string" ? data : new Uint8Array(data as ArrayBuffer));
      this.#wake();
    });
    socket.addEventListener("close", () => {
      this.#ended = true;
      this.#wake();
    });
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array | string, void, undefined> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame !== undefined) yield frame;
      else if (this.#ended) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

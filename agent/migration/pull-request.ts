/**
 * One call of `Pull` as the destination sees it: gRPC spoken by hand on an HTTP/2 stream, as the source does. Frames
 * are put together where the coding threads find them; a gRPC library would put each together in memory of its own.
 */
import type { ClientHttp2Stream, IncomingHttpHeaders } from "node:http2";
import { toFault, type Fault } from "#kernel/fault.ts";
import { fromRpcStatus } from "#kernel/rpc-status.ts";
import { cut, maxMessageBytes } from "./protocol.ts";
import { ownSlab, type Slab, type Slabs } from "./slabs.ts";
import { decodeFrame, encodeRequest, MessageReader, prefixed, type Frame, type Request } from "./wire.ts";

export interface PullAnswers {
  /** The message, which the frame's data is a part of, is the receiver's. */
  readonly onFrame: (frame: Frame, message: Slab) => void;
  /** Requests may be sent again. */
  readonly onDrain: () => void;
  /** The call is over; without a fault it ended in order. Called once. */
  readonly onEnd: (fault: Fault | undefined) => void;
}

/** A message shorter than this is not worth a slab. */
const smallBytes = 8 * 1024;
/** How long the word that the channel is given up may take. */
const goodbyeMs = 1000;

export class PullRequest {
  readonly #stream: ClientHttp2Stream;
  readonly #onClose: () => void;
  #trailers: IncomingHttpHeaders = {};
  #ended = false;

  /** @param onClose ends the connection that the call is alone on */
  constructor(stream: ClientHttp2Stream, onClose: () => void) {
    this.#stream = stream;
    this.#onClose = onClose;
    stream.on("error", () => undefined); // `close` follows, and tells of it
  }

  listen({ onFrame, onDrain, onEnd }: PullAnswers, slabs: Slabs): void {
    const stream = this.#stream;
    const reader = new MessageReader(maxMessageBytes, (bytes) =>
      bytes < smallBytes ? ownSlab(Buffer.allocUnsafe(bytes)) : slabs.take(bytes),
    );
    const end = (fault: Fault | undefined) => {
      if (!this.#ended) onEnd(fault);
      this.#ended = true;
    };
    // A call that is refused at once has its status among the headers.
    stream.on("response", (headers: IncomingHttpHeaders) => (this.#trailers = headers));
    stream.on("trailers", (headers: IncomingHttpHeaders) => (this.#trailers = headers));
    stream.on("data", (piece: Buffer) => {
      try {
        for (const message of reader.push(piece)) onFrame(decodeFrame(message.bytes), message);
      } catch (thrown) {
        end(toFault(thrown));
      }
    });
    stream.on("drain", onDrain);
    stream.once("end", () => end(faultOf(this.#trailers)));
    stream.once("close", () => end(cut()));
    if (stream.destroyed) end(cut());
  }

  /** False: more than the network takes; `onDrain` tells when it does. */
  send(request: Request): boolean {
    if (this.#stream.destroyed || this.#stream.writableEnded) return true; // its end is told otherwise
    return this.#stream.write(prefixed(encodeRequest(request)));
  }

  /** Nothing more will be said. */
  end(): void {
    this.#stream.end();
  }

  get isPaused(): boolean {
    return this.#stream.isPaused();
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  /** Tells the source why the channel is given up, where it can still be told. */
  async abandon({ reason, message }: Fault): Promise<void> {
    const stream = this.#stream;
    if (stream.destroyed || stream.readableEnded || stream.writableEnded) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, goodbyeMs);
      stream.once("close", () => {
        clearTimeout(timer);
        resolve();
      });
      this.send({ case: "abort", value: { reason, message } });
      stream.end();
      stream.resume();
    });
  }

  /** Ends the call, whatever is under way, and its connection. Safe to repeat. */
  close(): void {
    this.#stream.destroy();
    this.#onClose();
  }
}

/** What the source said when it ended the call. */
function faultOf(trailers: IncomingHttpHeaders): Fault | undefined {
  const text = (key: string) => {
    const value = trailers[key];
    return typeof value === "string" ? value : null;
  };
  const status = text("grpc-status");
  if (status === "0") return undefined;
  if (status === null) return cut();
  const message = decodeText(text("grpc-message") ?? "");
  return fromRpcStatus({ code: Number(status), message, metadata: { get: text } }, "MOVE_CUT", message);
}

function decodeText(percentEncoded: string): string {
  try {
    return decodeURIComponent(percentEncoded);
  } catch {
    return percentEncoded; // not ours, and only for people
  }
}

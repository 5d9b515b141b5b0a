/**
 * One call of `Pull` as the source sees it: gRPC spoken by hand on an HTTP/2 stream, so that frames go out without a
 * copy and with the window that the client asked for.
 */
import { constants, type ServerHttp2Stream } from "node:http2";
import { Fault, toFault } from "#kernel/fault.ts";
import { toRpcStatus } from "#kernel/rpc-status.ts";
import { abortedByPeer, cut } from "./protocol.ts";
import { decodeRequest, MessageReader, type Open } from "./wire.ts";

/** What the destination's hypervisor says is little; the largest is what one read of its socket gives. */
const maxRequestBytes = 1024 * 1024;
/** How long the status may wait behind frames that are under way; then the call is cut. */
const goodbyeMs = 2000;

export interface PullEvents {
  /** False: more than the hypervisor takes; {@link PullCall.resume} when it does. */
  readonly onData: (bytes: Uint8Array) => boolean;
  /** The destination's hypervisor has said all it had to say. */
  readonly onEnd: () => void;
  /** The frame of this sequence, and all before it, have been taken in. */
  readonly onTaken?: (sequence: number) => void;
  readonly onFault: (fault: Fault) => void;
}

export class PullCall {
  readonly stream: ServerHttp2Stream;
  readonly #reader = new MessageReader(maxRequestBytes);
  #onOpen: ((open: Open) => void) | undefined;
  #events: PullEvents | undefined;
  #fault: Fault | undefined;
  #finished = false;

  /** @param onOpen the destination has said what it wants; called once */
  constructor(stream: ServerHttp2Stream, onOpen: (open: Open) => void) {
    this.stream = stream;
    this.#onOpen = onOpen;
    stream.on("error", (cause) => this.#failed(cut(cause)));
    stream.once("close", () => this.#failed(cut()));
    stream.on("data", (piece: Buffer) => {
      try {
        for (const { bytes } of this.#reader.push(piece)) this.#receive(bytes);
      } catch (thrown) {
        this.finish(toFault(thrown));
      }
    });
    stream.once("end", () => {
      if (this.#onOpen) this.finish(new Fault("invalid", "the call ended before it began"));
      else this.#events?.onEnd();
    });
    stream.respond({ ":status": 200, "content-type": "application/grpc+proto" }, { waitForTrailers: true });
  }

  /** False once the call has ended, however it did. */
  get alive(): boolean {
    return !this.#finished && !this.stream.destroyed;
  }

  /** Tells what comes; a fault that came earlier at once. */
  listen(events: PullEvents): void {
    this.#events = events;
    if (this.#fault) events.onFault(this.#fault);
  }

  resume(): void {
    this.stream.resume();
  }

  /** Ends the call with its status: what was sent so far arrives first. Safe to repeat. */
  finish(fault?: Fault): void {
    if (this.#finished) return;
    this.#finished = true;
    const { stream } = this;
    if (stream.destroyed) return;
    // Where the server also answers with Node's request and response objects, those would send empty trailers.
    stream.removeAllListeners("wantTrailers");
    stream.once("wantTrailers", () => {
      stream.sendTrailers(statusTrailers(fault));
    });
    const goodbye = setTimeout(() => stream.close(constants.NGHTTP2_CANCEL), goodbyeMs);
    stream.once("close", () => clearTimeout(goodbye));
    stream.end();
    stream.resume();
  }

  #receive(message: Buffer): void {
    const request = decodeRequest(message);
    if (request?.case === "open") {
      const onOpen = this.#onOpen;
      this.#onOpen = undefined;
      if (!onOpen) throw new Fault("invalid", "a channel is opened once", { reason: "CHANNEL_OPEN" });
      onOpen(request.value);
    } else if (request?.case === "abort") {
      this.#failed(abortedByPeer(request.value.reason, request.value.message));
    } else if (request?.case === "taken") {
      this.#events?.onTaken?.(request.value);
    } else if (request) {
      if (!this.#events)
        throw new Fault("invalid", "data came before the channel", { reason: "CHANNEL_CLOSED" });
      if (!this.#events.onData(request.value)) this.stream.pause();
    }
  }

  #failed(fault: Fault): void {
    if (this.#finished || this.#fault) return;
    this.#fault = fault;
    this.#events?.onFault(fault);
  }
}

function statusTrailers(fault: Fault | undefined): Record<string, string> {
  if (!fault) return { "grpc-status": "0" };
  const { code, message, metadata } = toRpcStatus(fault);
  return { "grpc-status": String(code), "grpc-message": encodeURIComponent(message), ...metadata };
}

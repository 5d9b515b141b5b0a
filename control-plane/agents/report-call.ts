/**
 * The call in which an agent reports: made to it once it has connected and kept open as long as the connection, because
 * HTTP/2 lets nobody but this side begin one there. gRPC by hand: there are thousands that do nothing for seconds, and
 * each would be several times as large with the RPC library's iterators and signals.
 */
import type { ClientHttp2Session, ClientHttp2Stream } from "node:http2";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import {
  AttendRequestSchema,
  AttendResponseSchema,
  type ReportRequest,
  ReportRequestSchema,
  type ReportResponseSchema,
  ReportService,
} from "#gen/skerry/control/v1/control_pb.js";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";

export interface ReportCallOptions {
  /** What becomes of a report; what it throws, the agent is told. */
  take(report: ReportRequest): Promise<MessageInitShape<typeof ReportResponseSchema>>;
  /** The agent, or whatever is between, ended the call; the connection may still be there. */
  ended(fault: Fault): void;
  /** A message that is larger ends the call. */
  readonly maxBytes: number;
  readonly log: Logger;
}

const path = `/${ReportService.typeName}/${ReportService.method.attend.name}`;
/** Before each message: whether it is compressed, and its length. */
const headBytes = 5;

/** Takes an agent's reports, one after the other, until its session or the call has ended. */
export function openReportCall(session: ClientHttp2Session, options: ReportCallOptions): void {
  const headers = {
    ":method": "POST",
    ":path": path,
    "content-type": "application/grpc+proto",
    te: "trailers",
  };
  new ReportCall(session.request(headers, { endStream: false }), options);
}

class ReportCall {
  readonly #stream: ClientHttp2Stream;
  readonly #options: ReportCallOptions;
  #pieces: Buffer[] = [];
  #received = 0;
  /** Unknown until the head is there. */
  #expected: number | undefined;
  #isTaking = false;

  constructor(stream: ClientHttp2Stream, options: ReportCallOptions) {
    this.#stream = stream;
    this.#options = options;
    stream.on("data", (piece: Buffer) => this.#add(piece));
    stream.on("error", (error) => options.log.debug("gateway.report-call-failed", { error }));
    stream.once("close", () => options.ended(cutOff()));
  }

  #add(piece: Buffer): void {
    this.#pieces.push(piece);
    this.#received += piece.length;
    if (this.#expected === undefined && this.#received >= headBytes) {
      const head = this.#pieces.length === 1 ? piece : Buffer.concat(this.#pieces);
      this.#expected = headBytes + head.readUInt32BE(1);
      if (head[0] !== 0 || this.#expected > this.#options.maxBytes) return this.#refuse();
    }
    if (this.#expected === undefined || this.#received < this.#expected) return;
    // The next one comes only after the answer to this one.
    if (this.#isTaking || this.#received > this.#expected) return this.#refuse();
    const message = this.#pieces.length === 1 ? piece : Buffer.concat(this.#pieces);
    this.#pieces = [];
    this.#received = 0;
    this.#expected = undefined;
    void this.#take(message.subarray(headBytes));
  }

  async #take(message: Uint8Array): Promise<void> {
    this.#isTaking = true;
    try {
      const { report } = fromBinary(AttendResponseSchema, message);
      const value = await this.#options.take(report ?? create(ReportRequestSchema));
      this.#answer({ outcome: { case: "accepted", value } });
    } catch (thrown) {
      const fault = toFault(thrown);
      if (fault.code === "internal") this.#options.log.error("gateway.report-failed", { fault });
      const { code, reason, message: text } = fault;
      this.#answer({ outcome: { case: "refused", value: { code, reason, message: text } } });
    }
  }

  #answer(answer: MessageInitShape<typeof AttendRequestSchema>): void {
    this.#isTaking = false;
    if (this.#stream.destroyed) return;
    const message = toBinary(AttendRequestSchema, create(AttendRequestSchema, answer));
    const framed = Buffer.alloc(headBytes + message.length);
    framed.writeUInt32BE(message.length, 1);
    framed.set(message, headBytes);
    this.#stream.write(framed);
  }

  #refuse(): void {
    this.#options.log.warn("gateway.report-malformed", { bytes: this.#received, expected: this.#expected });
    this.#stream.destroy();
  }
}

function cutOff(): Fault {
  return new Fault("unavailable", "the call for this host's reports has ended", { reason: "REPORTS_ENDED" });
}

/**
 * The two messages of a pull, in proto3 by hand: a frame's payload is neither copied nor looked at. What a generated
 * client writes is read, and the other way round; fields that are not known are skipped.
 */
import { Fault } from "#kernel/fault.ts";
import { Codec } from "#gen/skerry/agent/v1/migration_pb.js";
import { copyInto, ownSlab, type Slab } from "./slabs.ts";

export interface Frame {
  readonly data: Buffer;
  readonly rawLength: number;
  readonly codec: Codec;
  readonly staged: boolean;
  readonly checksum: bigint;
  readonly sequence: number;
  readonly end: boolean;
  readonly sorted: boolean;
  readonly alone: boolean;
  /** To be answered once it has been taken. */
  readonly askTaken: boolean;
}

export interface Open {
  readonly version: number;
  readonly migrationId: string;
  readonly channel: string;
  readonly ticket: Uint8Array;
  readonly codecs: readonly Codec[];
  readonly pageSources: readonly string[];
  /** Empty: there is none. */
  readonly placedMemory: string;
  readonly tellsTaken: boolean;
}

export type Request =
  | { readonly case: "open"; readonly value: Open }
  | { readonly case: "data"; readonly value: Uint8Array }
  /** A frame's sequence. */
  | { readonly case: "taken"; readonly value: number }
  | { readonly case: "abort"; readonly value: { readonly reason: string; readonly message: string } };

const varintType = 0;
const fixed64Type = 1;
const bytesType = 2;
const fixed32Type = 5;

/** Before each message of a gRPC stream. */
export const messagePrefixBytes = 5;

/** Everything of a message but its payload, which has to follow: gRPC's prefix, the fields, and the payload's length. */
export function encodeFrameHead(
  frame: Omit<Frame, "data"> & { readonly data: { readonly length: number } },
): Buffer {
  const fields = new Writer();
  if (frame.rawLength > 0) fields.number(2, frame.rawLength);
  if (frame.codec !== Codec.NONE) fields.number(3, frame.codec);
  if (frame.staged) fields.number(4, 1);
  if (frame.checksum !== 0n) fields.fixed64(5, frame.checksum);
  if (frame.sequence > 0) fields.number(6, frame.sequence);
  if (frame.end) fields.number(7, 1);
  if (frame.sorted) fields.number(8, 1);
  if (frame.alone) fields.number(9, 1);
  if (frame.askTaken) fields.number(10, 1);
  if (frame.data.length > 0) fields.length(1, frame.data.length);
  return prefixed(fields.finish(), frame.data.length);
}

/** The data of the result is a part of `message`. */
export function decodeFrame(message: Uint8Array): Frame {
  let data: Buffer = Buffer.alloc(0);
  const numbers = Array<number>(11).fill(0);
  let checksum = 0n;
  for (const field of readFields(message)) {
    if (field.bytes) {
      if (field.number === 1) data = asBuffer(field.bytes);
    } else if (field.fixed !== undefined) {
      if (field.number === 5) checksum = field.fixed;
    } else if (field.number < numbers.length) numbers[field.number] = field.value;
  }
  const [, , rawLength = 0, codec = 0, staged, , sequence = 0, end, sorted, alone, askTaken] = numbers;
  const order = { sorted: sorted !== 0, alone: alone !== 0, askTaken: askTaken !== 0 };
  const flags = { staged: staged !== 0, end: end !== 0, ...order };
  return { data, rawLength, codec, checksum, sequence, ...flags };
}

export function encodeRequest(request: Request): Buffer {
  const fields = new Writer();
  if (request.case === "data") fields.bytes(2, request.value);
  else if (request.case === "open") fields.bytes(1, encodeOpen(request.value));
  else if (request.case === "taken") fields.number(4, request.value);
  else fields.bytes(3, encodeAbort(request.value));
  return fields.finish();
}

/** Undefined for a message of a newer protocol. */
export function decodeRequest(message: Uint8Array): Request | undefined {
  let request: Request | undefined;
  for (const { number, bytes, value } of readFields(message)) {
    if (!bytes) {
      if (number === 4) request = { case: "taken", value };
    } else if (number === 1) request = { case: "open", value: decodeOpen(bytes) };
    else if (number === 2) request = { case: "data", value: bytes };
    else if (number === 3) request = { case: "abort", value: decodeAbort(bytes) };
  }
  return request;
}

function encodeOpen(open: Open): Buffer {
  const fields = new Writer();
  if (open.version > 0) fields.number(1, open.version);
  if (open.migrationId !== "") fields.bytes(2, Buffer.from(open.migrationId));
  if (open.channel !== "") fields.bytes(3, Buffer.from(open.channel));
  if (open.ticket.length > 0) fields.bytes(4, open.ticket);
  if (open.codecs.length > 0) fields.bytes(5, Uint8Array.from(open.codecs));
  for (const source of open.pageSources) fields.bytes(6, Buffer.from(source));
  if (open.placedMemory !== "") fields.bytes(7, Buffer.from(open.placedMemory));
  if (open.tellsTaken) fields.number(8, 1);
  return fields.finish();
}

function decodeOpen(message: Uint8Array): Open {
  let [version, migrationId, channel, ticket] = [0, "", "", Buffer.alloc(0) as Uint8Array];
  let [placedMemory, tellsTaken] = ["", false];
  const codecs: Codec[] = [];
  const pageSources: string[] = [];
  for (const { number, bytes, value } of readFields(message)) {
    if (!bytes) {
      if (number === 1) version = value;
      else if (number === 8) tellsTaken = value !== 0;
      else if (number === 5) codecs.push(value); // a writer may leave repeated numbers unpacked
    } else if (number === 2) migrationId = text(bytes);
    else if (number === 3) channel = text(bytes);
    else if (number === 4) ticket = bytes;
    else if (number === 5) codecs.push(...readPacked(bytes));
    else if (number === 6) pageSources.push(text(bytes));
    else if (number === 7) placedMemory = text(bytes);
  }
  return { version, migrationId, channel, ticket, codecs, pageSources, placedMemory, tellsTaken };
}

function encodeAbort({ reason, message }: { reason: string; message: string }): Buffer {
  const fields = new Writer();
  if (reason !== "") fields.bytes(1, Buffer.from(reason));
  if (message !== "") fields.bytes(2, Buffer.from(message));
  return fields.finish();
}

function decodeAbort(body: Uint8Array): { reason: string; message: string } {
  let [reason, message] = ["", ""];
  for (const { number, bytes } of readFields(body)) {
    if (bytes && number === 1) reason = text(bytes);
    if (bytes && number === 2) message = text(bytes);
  }
  return { reason, message };
}

/** Splits a gRPC stream into its messages. */
export class MessageReader {
  readonly #maxBytes: number;
  readonly #take: (bytes: number) => Slab;
  readonly #prefix = Buffer.alloc(messagePrefixBytes);
  #prefixBytes = 0;
  #message: Slab | undefined;
  #filled = 0;

  /** @param take where a message goes */
  constructor(maxBytes: number, take = (bytes: number) => ownSlab(Buffer.allocUnsafe(bytes))) {
    this.#maxBytes = maxBytes;
    this.#take = take;
  }

  /** Gives the messages that this piece completes, which are the caller's. Throws FRAME_MALFORMED. */
  push(piece: Buffer): Slab[] {
    const messages: Slab[] = [];
    for (let at = 0; at < piece.length;) {
      if (!this.#message) {
        const taken = piece.copy(this.#prefix, this.#prefixBytes, at);
        at += taken;
        this.#prefixBytes += taken;
        if (this.#prefixBytes < messagePrefixBytes) break;
        this.#message = this.#take(this.#messageBytes());
        this.#filled = 0;
      }
      const { bytes } = this.#message;
      const taken = Math.min(bytes.length - this.#filled, piece.length - at);
      copyInto(bytes, this.#filled, piece.subarray(at, at + taken));
      at += taken;
      this.#filled += taken;
      if (this.#filled < bytes.length) continue;
      messages.push(this.#message);
      this.#message = undefined;
      this.#prefixBytes = 0;
    }
    return messages;
  }

  #messageBytes(): number {
    const length = this.#prefix.readUInt32BE(1);
    if (this.#prefix[0] !== 0) throw malformed("it is compressed by gRPC, which this method does not offer");
    if (length > this.#maxBytes) throw malformed("it is too long");
    return length;
  }
}

/** A message as it stands in a gRPC stream. */
export function prefixed(message: Buffer, payloadBytes = 0): Buffer {
  const whole = Buffer.allocUnsafe(messagePrefixBytes + message.length);
  whole[0] = 0;
  whole.writeUInt32BE(message.length + payloadBytes, 1);
  message.copy(whole, messagePrefixBytes);
  return whole;
}

/** The fields of one message, which is short but for a payload that comes last. */
class Writer {
  readonly #parts: Uint8Array[] = [];
  #bytes: number[] = [];

  number(field: number, value: number): void {
    this.#varint(field * 8 + varintType);
    this.#varint(value);
  }

  fixed64(field: number, value: bigint): void {
    this.#varint(field * 8 + fixed64Type);
    for (let shift = 0n; shift < 64n; shift += 8n) this.#bytes.push(Number((value >> shift) & 0xffn));
  }

  length(field: number, length: number): void {
    this.#varint(field * 8 + bytesType);
    this.#varint(length);
  }

  bytes(field: number, bytes: Uint8Array): void {
    this.length(field, bytes.length);
    this.#parts.push(Uint8Array.from(this.#bytes), bytes);
    this.#bytes = [];
  }

  finish(): Buffer {
    return Buffer.concat([...this.#parts, Uint8Array.from(this.#bytes)]);
  }

  #varint(value: number): void {
    while (value > 0x7f) {
      this.#bytes.push((value % 0x80) + 0x80);
      value = Math.floor(value / 0x80);
    }
    this.#bytes.push(value);
  }
}

interface Field {
  readonly number: number;
  /** Of a number; 0 for other types. */
  readonly value: number;
  readonly bytes?: Uint8Array;
  readonly fixed?: bigint;
}

function* readFields(message: Uint8Array): Generator<Field> {
  const reader = new Reader(message);
  while (!reader.done) {
    const tag = reader.varint();
    const number = Math.floor(tag / 8);
    const type = tag % 8;
    if (type === varintType) yield { number, value: reader.varint() };
    else if (type === bytesType) yield { number, value: 0, bytes: reader.take(reader.varint()) };
    else if (type === fixed64Type) {
      const bytes = Buffer.from(reader.take(8));
      yield { number, value: 0, fixed: bytes.readBigUInt64LE() };
    } else if (type === fixed32Type) reader.take(4);
    else throw malformed("a field has an unknown type");
  }
}

class Reader {
  readonly #message: Uint8Array;
  #at = 0;

  constructor(message: Uint8Array) {
    this.#message = message;
  }

  get done(): boolean {
    return this.#at >= this.#message.length;
  }

  varint(): number {
    let value = 0;
    for (let weight = 1; ; weight *= 0x80) {
      const byte = this.#message[this.#at++];
      if (byte === undefined) throw malformed("it ends within a number");
      value += (byte & 0x7f) * weight;
      if (byte < 0x80) break;
    }
    if (value > Number.MAX_SAFE_INTEGER) throw malformed("a number is too large");
    return value;
  }

  take(length: number): Uint8Array {
    const bytes = this.#message.subarray(this.#at, this.#at + length);
    if (bytes.length !== length) throw malformed("it ends within a field");
    this.#at += length;
    return bytes;
  }
}

function readPacked(bytes: Uint8Array): number[] {
  const reader = new Reader(bytes);
  const numbers: number[] = [];
  while (!reader.done) numbers.push(reader.varint());
  return numbers;
}

function text(bytes: Uint8Array): string {
  return asBuffer(bytes).toString();
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function malformed(how: string): Fault {
  return new Fault("invalid", `a message of the move cannot be read: ${how}`, { reason: "FRAME_MALFORMED" });
}

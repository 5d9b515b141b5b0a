/**
 * What one fake machine tells another about its pages. To the destination: pages, and at the end the digest of
 * them all, or, in post-copy, before the last pages which those are; back: how many records were taken, and `done` when the digest was right. Each record is its length, a
 * letter and what the letter says.
 */
import type { Duplex } from "node:stream";
import { Fault } from "#kernel/fault.ts";
import { pageBytes } from "./page-file.ts";

export type WireRecord =
  | { readonly type: "page"; readonly page: number; readonly bytes: Buffer }
  | { readonly type: "zero"; readonly page: number }
  | { readonly type: "end"; readonly digest: Buffer }
  /** The guest may run: pages whose bit is set will follow. */
  | { readonly type: "state"; readonly missing: Buffer }
  | { readonly type: "taken"; readonly count: number }
  | { readonly type: "done" };

const letters = { page: 80, zero: 90, end: 69, state: 83, taken: 84, done: 68 } as const;
const longest = 16 + 4 * pageBytes;

export function encodeRecord(record: WireRecord): Buffer {
  const body = bodyOf(record);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(1 + body.length, 0);
  head.writeUInt8(letters[record.type], 4);
  return Buffer.concat([head, body]);
}

function bodyOf(record: WireRecord): Buffer {
  switch (record.type) {
    case "page":
      return Buffer.concat([uint32(record.page), record.bytes]);
    case "zero":
      return uint32(record.page);
    case "end":
      return record.digest;
    case "state":
      return record.missing;
    case "taken":
      return uint32(record.count);
    case "done":
      return Buffer.alloc(0);
  }
}

/** The records of a stream until its end. What comes after half a record is a stream that was cut. */
export async function* readRecords(stream: Duplex): AsyncGenerator<WireRecord> {
  let pending = Buffer.alloc(0);
  for await (const chunk of stream) {
    pending = Buffer.concat([pending, chunk as Buffer]);
    while (pending.length >= 4) {
      const length = pending.readUInt32BE(0);
      if (length < 1 || length > longest) throw corrupt();
      if (pending.length < 4 + length) break;
      yield decodeRecord(pending.readUInt8(4), pending.subarray(5, 4 + length));
      pending = pending.subarray(4 + length);
    }
  }
}

function decodeRecord(letter: number, body: Buffer): WireRecord {
  switch (letter) {
    case letters.page:
      return { type: "page", page: body.readUInt32BE(0), bytes: body.subarray(4) };
    case letters.zero:
      return { type: "zero", page: body.readUInt32BE(0) };
    case letters.end:
      return { type: "end", digest: body };
    case letters.state:
      return { type: "state", missing: body };
    case letters.taken:
      return { type: "taken", count: body.readUInt32BE(0) };
    case letters.done:
      return { type: "done" };
    default:
      throw corrupt();
  }
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value, 0);
  return bytes;
}

function corrupt(): Fault {
  return new Fault("conflict", "what arrived of the machine makes no sense", { reason: "MOVE_CORRUPT" });
}

/**
 * The part of the NBD protocol that we speak, as bytes: the fixed newstyle handshake with structured replies and
 * metadata contexts, and the requests read, write, write zeroes, flush and block status. All numbers are big-endian.
 */
import { Fault } from "#kernel/fault.ts";

export const serverMagic = 0x4e42444d41474943n; // "NBDMAGIC"
export const optionMagic = 0x49484156454f5054n; // "IHAVEOPT"
export const optionReplyMagic = 0x3e889045565a9n;
export const requestMagic = 0x25609513;
export const simpleReplyMagic = 0x67446698;
export const structuredReplyMagic = 0x668e33ef;

/** Fixed newstyle, and no 124 zeros at its end: as the server's flags say it, and the client's. */
export const newstyle = 0b11;

export const options = { go: 7, structuredReply: 8, setMetaContext: 10 } as const;
export const optionReplies = { ack: 1, info: 3, metaContext: 4 } as const;
/** Replies to an option from here on are refusals. */
export const optionError = 2 ** 31;
export const infoExport = 0;

export const commands = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  writeZeroes: 6,
  blockStatus: 7,
} as const;
export type Command = (typeof commands)[keyof typeof commands];

export const chunks = { none: 0, data: 1, hole: 2, blockStatus: 5 } as const;
/** Kinds of chunks from here on are errors. */
export const chunkError = 2 ** 15;
export const lastChunk = 1;

export const requestBytes = 28;
export const simpleReplyBytes = 16;
export const structuredReplyBytes = 20;

/** More than any server of ours sends in one piece. */
export const maxPayloadBytes = 64 * 1024 * 1024;

export function encodeOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(16);
  head.writeBigUInt64BE(optionMagic, 0);
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(data.length, 12);
  return Buffer.concat([head, data]);
}

/** Names the export that is meant, asking for no further information. */
export function encodeGo(name: string): Buffer {
  return encodeOption(options.go, Buffer.concat([text(name), Buffer.alloc(2)]));
}

export function encodeContexts(name: string, contexts: readonly string[]): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(contexts.length);
  return encodeOption(options.setMetaContext, Buffer.concat([text(name), count, ...contexts.map(text)]));
}

export interface Request {
  readonly command: Command;
  readonly handle: bigint;
  readonly offset: number;
  readonly length: number;
}

export function encodeRequest({ command, handle, offset, length }: Request): Buffer {
  const bytes = Buffer.alloc(requestBytes);
  bytes.writeUInt32BE(requestMagic, 0);
  bytes.writeUInt16BE(command, 6);
  bytes.writeBigUInt64BE(handle, 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

/** A stretch of an export and what one context says of it. */
export interface Extent {
  readonly length: number;
  readonly flags: number;
}

export function decodeExtents(payload: Buffer): Extent[] {
  const extents: Extent[] = [];
  for (let at = 4; at + 8 <= payload.length; at += 8)
    extents.push({ length: payload.readUInt32BE(at), flags: payload.readUInt32BE(at + 4) });
  return extents;
}

export function protocolFault(how: string): Fault {
  return new Fault("internal", "the disk's server does not speak as it should", {
    reason: "NBD_PROTOCOL",
    cause: new Error(how),
  });
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

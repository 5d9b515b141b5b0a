/** The beginning of an NBD connection: what both can do, and which export is meant. */
import type { Duplex } from "node:stream";
import { Fault } from "#kernel/fault.ts";
import type { ByteReader } from "./byte-reader.ts";
import {
  encodeContexts,
  encodeGo,
  encodeOption,
  infoExport,
  maxPayloadBytes,
  newstyle,
  optionError,
  optionMagic,
  optionReplies,
  optionReplyMagic,
  options,
  protocolFault,
  serverMagic,
} from "./wire.ts";

export interface Negotiated {
  readonly bytes: number;
  readonly contexts: readonly number[];
}

interface OptionReply {
  readonly kind: number;
  readonly payload: Buffer;
}

export async function negotiate(
  stream: Duplex,
  reader: ByteReader,
  { name, contexts = [] }: { readonly name: string; readonly contexts?: readonly string[] },
): Promise<Negotiated> {
  const greeting = await reader.take(18);
  if (greeting.readBigUInt64BE(0) !== serverMagic || greeting.readBigUInt64BE(8) !== optionMagic)
    throw protocolFault("that is no greeting");
  if ((greeting.readUInt16BE(16) & newstyle) !== newstyle) throw protocolFault("it is of an old style");
  const flags = Buffer.alloc(4);
  flags.writeUInt32BE(newstyle);
  stream.write(flags);
  const numbers = contexts.length > 0 ? await chooseContexts(stream, reader, name, contexts) : [];
  stream.write(encodeGo(name));
  for (let bytes = 0; ;) {
    const { kind, payload } = await readReply(reader, options.go);
    if (kind === optionReplies.ack) return { bytes, contexts: numbers };
    if (kind === optionReplies.info && payload.readUInt16BE(0) === infoExport)
      bytes = Number(payload.readBigUInt64BE(2));
  }
}

async function chooseContexts(
  stream: Duplex,
  reader: ByteReader,
  name: string,
  contexts: readonly string[],
): Promise<readonly number[]> {
  stream.write(encodeOption(options.structuredReply));
  await readReply(reader, options.structuredReply);
  stream.write(encodeContexts(name, contexts));
  const numbers = new Map<string, number>();
  for (;;) {
    const { kind, payload } = await readReply(reader, options.setMetaContext);
    if (kind === optionReplies.ack) break;
    numbers.set(payload.toString("utf8", 4), payload.readUInt32BE(0));
  }
  return contexts.map((context) => {
    const number = numbers.get(context);
    if (number === undefined) throw refused(`it has no ${context}`);
    return number;
  });
}

async function readReply(reader: ByteReader, option: number): Promise<OptionReply> {
  const head = await reader.take(20);
  if (head.readBigUInt64BE(0) !== optionReplyMagic || head.readUInt32BE(8) !== option)
    throw protocolFault("that is no answer to the option");
  const [kind, length] = [head.readUInt32BE(12), head.readUInt32BE(16)];
  if (length > maxPayloadBytes) throw protocolFault(`an answer of ${String(length)} bytes`);
  const payload = await reader.take(length);
  if (kind >= optionError) throw refused(payload.toString());
  return { kind, payload };
}

function refused(why: string): Fault {
  return new Fault("notFound", "the disk's server refuses what it is asked for", {
    reason: "NBD_REFUSED",
    cause: new Error(why),
  });
}

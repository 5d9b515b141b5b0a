/**
 * A client of one NBD export: what is read of a disk here, and written to one elsewhere, without either hypervisor
 * knowing of the other. Requests overlap; each has its own limit, after which the connection is given up, since nobody
 * can tell what became of it.
 */
import type { Duplex } from "node:stream";
import { Fault } from "#kernel/fault.ts";
import { deadline } from "#kernel/retry.ts";
import { cancelled } from "#kernel/stall.ts";
import { ByteReader, disconnected } from "./byte-reader.ts";
import { negotiate } from "./handshake.ts";
import {
  type Command,
  chunkError,
  chunks,
  commands,
  decodeExtents,
  encodeRequest,
  type Extent,
  lastChunk,
  maxPayloadBytes,
  protocolFault,
  simpleReplyBytes,
  simpleReplyMagic,
  structuredReplyBytes,
  structuredReplyMagic,
} from "./wire.ts";

export interface NbdOptions {
  readonly name: string;
  /** Metadata contexts that {@link NbdClient.status} tells of, in this order; with any, holes come as holes. */
  readonly contexts?: readonly string[];
  /** How long the server may take for one answer. */
  readonly limitMs: number;
}

interface Waiting {
  readonly offset: number;
  /** Where what is read goes. */
  readonly into: Buffer | undefined;
  readonly extents: Map<number, readonly Extent[]>;
  resolve(): void;
  reject(fault: Fault): void;
}

export class NbdClient implements Disposable {
  /** Of the export. */
  readonly bytes: number;
  readonly #stream: Duplex;
  readonly #limitMs: number;
  /** The server's numbers of the contexts, in the order in which they were asked for. */
  readonly #contexts: readonly number[];
  readonly #waiting = new Map<bigint, Waiting>();
  #handle = 0n;
  #end: Fault | undefined;

  private constructor(
    stream: Duplex,
    limitMs: number,
    found: { readonly bytes: number; readonly contexts: readonly number[] },
    reader: ByteReader,
  ) {
    this.#stream = stream;
    this.#limitMs = limitMs;
    this.bytes = found.bytes;
    this.#contexts = found.contexts;
    void this.#listen(reader);
  }

  /** Opens an export; the stream belongs to the client from here on. `notFound` NBD_REFUSED when it is not served. */
  static async open(stream: Duplex, options: NbdOptions, signal: AbortSignal): Promise<NbdClient> {
    using limit = deadline(options.limitMs, "opening the disk", signal);
    const aborted = () => stream.destroy();
    limit.addEventListener("abort", aborted, { once: true });
    stream.on("error", aborted); // whoever waits for bytes is told
    try {
      limit.throwIfAborted();
      const reader = new ByteReader(stream);
      const found = await negotiate(stream, reader, options);
      return new NbdClient(stream, options.limitMs, found, reader);
    } catch (thrown) {
      stream.destroy();
      if (limit.aborted) throw cancelled(limit);
      throw thrown instanceof Fault ? thrown : disconnected(thrown);
    } finally {
      limit.removeEventListener("abort", aborted);
    }
  }

  get isOpen(): boolean {
    return this.#end === undefined;
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const into = Buffer.alloc(length);
    await this.#request(commands.read, offset, length, { into });
    return into;
  }

  async write(offset: number, data: Buffer): Promise<void> {
    await this.#request(commands.write, offset, data.length, { data });
  }

  /** Makes a stretch read as zeros, and gives its room back where that can be done. */
  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#request(commands.writeZeroes, offset, length, {});
  }

  async flush(): Promise<void> {
    await this.#request(commands.flush, 0, 0, {});
  }

  /** What each context says, from `offset` on, of at most `length` bytes; maybe of fewer. */
  async status(offset: number, length: number): Promise<readonly (readonly Extent[])[]> {
    const { extents } = await this.#request(commands.blockStatus, offset, length, {});
    return this.#contexts.map((context) => {
      const told = extents.get(context);
      if (told === undefined || told.length === 0) throw protocolFault("a context is not told of");
      return told;
    });
  }

  [Symbol.dispose](): void {
    this.#close(disconnected());
  }

  async #request(
    command: Command,
    offset: number,
    length: number,
    { data, into }: { readonly data?: Buffer; readonly into?: Buffer },
  ): Promise<Waiting> {
    if (this.#end) throw this.#end;
    const handle = ++this.#handle;
    const timer = setTimeout(() => this.#close(stalled(this.#limitMs)), this.#limitMs);
    try {
      return await new Promise<Waiting>((resolve, reject) => {
        const waiting: Waiting = {
          ...{ offset, into, reject },
          extents: new Map(),
          resolve: () => resolve(waiting),
        };
        this.#waiting.set(handle, waiting);
        this.#stream.write(encodeRequest({ command, handle, offset, length }));
        if (data) this.#stream.write(data);
      });
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(handle);
    }
  }

  async #listen(reader: ByteReader): Promise<void> {
    try {
      for (;;) {
        const head = await reader.take(simpleReplyBytes);
        if (head.readUInt32BE(0) === simpleReplyMagic)
          this.#answer(head.readBigUInt64BE(8), head.readUInt32BE(4));
        else await this.#takeChunk(head, reader);
      }
    } catch (thrown) {
      this.#close(thrown instanceof Fault ? thrown : disconnected(thrown));
    }
  }

  async #takeChunk(head: Buffer, reader: ByteReader): Promise<void> {
    if (head.readUInt32BE(0) !== structuredReplyMagic) throw protocolFault("that is no reply");
    const rest = await reader.take(structuredReplyBytes - simpleReplyBytes);
    const length = rest.readUInt32BE(0);
    if (length > maxPayloadBytes) throw protocolFault(`a reply of ${String(length)} bytes`);
    const payload = await reader.take(length);
    const [flags, kind, handle] = [head.readUInt16BE(4), head.readUInt16BE(6), head.readBigUInt64BE(8)];
    const waiting = this.#waiting.get(handle);
    if (kind >= chunkError) return this.#answer(handle, payload.readUInt32BE(0) || 1);
    if (waiting) take(waiting, kind, payload);
    if ((flags & lastChunk) !== 0) this.#answer(handle, 0);
  }

  #answer(handle: bigint, error: number): void {
    const waiting = this.#waiting.get(handle);
    if (error === 0) waiting?.resolve();
    else waiting?.reject(refused(error));
  }

  #close(why: Fault): void {
    this.#end ??= why;
    this.#stream.destroy();
    for (const waiting of this.#waiting.values()) waiting.reject(this.#end);
  }
}

function take(waiting: Waiting, kind: number, payload: Buffer): void {
  if (kind === chunks.blockStatus) waiting.extents.set(payload.readUInt32BE(0), decodeExtents(payload));
  // What was asked for is all zeros until it is told otherwise, so a hole is nothing to write down.
  if (kind === chunks.data && waiting.into)
    payload.copy(waiting.into, Number(payload.readBigUInt64BE(0)) - waiting.offset, 8);
}

function refused(error: number): Fault {
  return new Fault("unavailable", "the disk could not be read or written", {
    reason: "NBD_IO_FAILED",
    detail: { errno: error },
  });
}

function stalled(limitMs: number): Fault {
  return new Fault("unavailable", `the disk's server did not answer for ${String(limitMs / 1000)} s`, {
    reason: "NBD_STALLED",
  });
}

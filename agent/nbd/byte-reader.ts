import type { Duplex } from "node:stream";
import { Fault } from "#kernel/fault.ts";

/** Takes a stream's bytes in pieces of given sizes. One reader at a time. */
export class ByteReader {
  readonly #chunks: AsyncIterator<Buffer>;
  #rest: Buffer[] = [];
  #length = 0;

  constructor(stream: Duplex) {
    this.#chunks = (stream as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
  }

  /** The next so many bytes. Throws `unavailable` NBD_DISCONNECTED when the stream ends before them. */
  async take(bytes: number): Promise<Buffer> {
    while (this.#length < bytes) {
      const next = await this.#chunks.next();
      if (next.done === true) throw disconnected();
      this.#rest.push(next.value);
      this.#length += next.value.length;
    }
    // One piece is not copied.
    const [first = Buffer.alloc(0)] = this.#rest;
    const whole = first.length >= bytes ? first : Buffer.concat(this.#rest);
    const after = first.length >= bytes ? this.#rest.slice(1) : [];
    const left = whole.subarray(bytes);
    this.#rest = left.length > 0 ? [left, ...after] : after;
    this.#length -= bytes;
    return whole.subarray(0, bytes);
  }
}

export function disconnected(cause?: unknown): Fault {
  return new Fault("unavailable", "the connection to the disk was lost", {
    reason: "NBD_DISCONNECTED",
    cause,
  });
}

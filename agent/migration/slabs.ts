/**
 * Memory for blocks on their way, used again and again. It is shared with the coding threads, so nothing is copied or
 * handed over; and it is no garbage: each few dozen megabytes of buffers that were let go make V8 look through its whole
 * heap, which cost more CPU than the codec.
 */

/** The memory of one block, until it is given back. */
export interface Slab {
  readonly bytes: Buffer;
  /** Back to its pool; not to be touched afterwards. Safe to repeat. */
  readonly release: () => void;
}

export class Slabs {
  readonly #slabBytes: number;
  readonly #free: Buffer[] = [];

  /** @param slabBytes what a slab holds when nothing larger is asked for */
  constructor(slabBytes: number) {
    this.#slabBytes = slabBytes;
  }

  /** Lets go of what is not out. */
  trim(): void {
    this.#free.length = 0;
  }

  /** A slab of so many bytes. How many are out at a time is up to who takes them. */
  take(bytes = this.#slabBytes): Slab {
    if (bytes > this.#slabBytes) return { bytes: sharedMemory(bytes), release: () => undefined };
    const memory = this.#free.pop() ?? sharedMemory(this.#slabBytes);
    let out = true;
    const release = () => {
      if (out) this.#free.push(memory);
      out = false;
    };
    return { bytes: memory.subarray(0, bytes), release };
  }
}

/** For a few bytes no slab is worth it. */
export function ownSlab(bytes: Buffer): Slab {
  return { bytes, release: () => undefined };
}

/**
 * Copies bytes from or into a slab, and says how many. JavaScript's own ways of copying shared memory go word by word, as
 * if somebody else looked on, and byte by byte where the two lie differently in their words, as a stream's pages mostly
 * do: a page of 4 KiB takes them 2 to 3 µs, and this one 0.4.
 */
export function copyInto(target: Buffer, at: number, bytes: Uint8Array): number {
  if (bytes.length > 0) target.fill(bytes, at, at + bytes.length);
  return bytes.length;
}

function sharedMemory(bytes: number): Buffer {
  return Buffer.from(new SharedArrayBuffer(bytes));
}

/** What a hypervisor has written and nobody has sent yet, in slabs that it is read into. */
import { copyInto, ownSlab, type Slab, type Slabs } from "./slabs.ts";

/** A slab with less room than this is not read into any more. */
const leastRoomBytes = 32 * 1024;
/** A shorter block does not keep its slab from being used again. */
const smallBytes = 8 * 1024;

export class Gathering {
  readonly #slabs: Slabs;
  #slab: { readonly slab: Slab; holders: number } | undefined;
  #start = 0;
  #end = 0;

  constructor(slabs: Slabs) {
    this.#slabs = slabs;
  }

  /** How many bytes there are to {@link cut}. */
  get bytes(): number {
    return this.#end - this.#start;
  }

  /** There is no use in waiting for more before some is cut off. */
  get isFull(): boolean {
    return (this.#slab?.slab.bytes.length ?? Infinity) - this.#end < leastRoomBytes;
  }

  /** Where the next bytes belong, whatever is cut off until then. */
  room(most: number): Buffer {
    const { slab } = this.#slab && !this.isFull ? this.#slab : this.#renew();
    return slab.bytes.subarray(this.#end, this.#end + Math.max(most, leastRoomBytes));
  }

  /** So many bytes are in the room now: these. */
  add(count: number): Buffer {
    this.#end += count;
    return this.#slab?.slab.bytes.subarray(this.#end - count, this.#end) ?? Buffer.alloc(0);
  }

  /** Takes the first bytes. */
  cut(bytes: number): Slab {
    const held = this.#slab;
    const block = held?.slab.bytes.subarray(this.#start, this.#start + bytes) ?? Buffer.alloc(0);
    this.#start += bytes;
    if (!held || bytes < smallBytes) return ownSlab(Buffer.from(block));
    held.holders++;
    let out = true;
    const release = () => {
      if (out) letGo(held);
      out = false;
    };
    return { bytes: block, release };
  }

  #renew(): { readonly slab: Slab; holders: number } {
    const old = this.#slab;
    const fresh = { slab: this.#slabs.take(), holders: 1 };
    if (old) {
      this.#end = copyInto(fresh.slab.bytes, 0, old.slab.bytes.subarray(this.#start, this.#end));
      this.#start = 0;
      letGo(old);
    }
    return (this.#slab = fresh);
  }
}

function letGo(held: { readonly slab: Slab; holders: number }): void {
  if (--held.holders === 0) held.slab.release();
}

/**
 * What is on its way between the two hypervisors of a channel. Much of it makes a move quick: while the codec is busy the link has
 * something to carry, and the other way round. But QEMU takes for arrived what has left it, and a guest that stops then
 * stands still until all that has arrived.
 */

/** A destination that tells what it has taken is asked each time that so much of the limit has been sent. */
const askShare = 1 / 8;

export class Backlog {
  readonly #usualBytes: number;
  #limitBytes: number;
  /** All that the hypervisor has said; of that, what went into frames, what those that ask stand for, and what was taken. */
  #saidBytes = 0;
  #sentBytes = 0;
  #askedBytes = 0;
  #takenBytes = 0;
  /** The next frame asks: under a lower limit there may be no other before something is answered. */
  #asksNext = false;
  /** False: nobody tells, and what is in a frame counts as taken. */
  #isTold: boolean;
  /** What had been sent with each frame that was to be answered, oldest first. */
  #asked: { readonly sequence: number; readonly sentBytes: number }[] = [];

  constructor(usualBytes: number, isTold: boolean) {
    this.#usualBytes = this.#limitBytes = usualBytes;
    this.#isTold = isTold;
  }

  get bytes(): number {
    return this.#saidBytes - this.#takenBytes;
  }

  get isFull(): boolean {
    return this.bytes >= this.#limitBytes;
  }

  /** @param bytes undefined: as much as usual */
  limit(bytes: number | undefined): void {
    const before = this.#limitBytes;
    this.#limitBytes = Math.min(this.#usualBytes, bytes ?? this.#usualBytes);
    this.#asksNext ||= this.#limitBytes < before;
  }

  said(bytes: number): void {
    this.#saidBytes += bytes;
  }

  /** True when this frame is to be answered. */
  sending(sequence: number, bytes: number): boolean {
    this.#sentBytes += bytes;
    if (!this.#isTold) this.#takenBytes = this.#sentBytes;
    const isDue = this.#asksNext || this.#sentBytes - this.#askedBytes >= askShare * this.#limitBytes;
    if (!this.#isTold || !isDue) return false;
    this.#asksNext = false;
    this.#askedBytes = this.#sentBytes;
    this.#asked.push({ sequence, sentBytes: this.#sentBytes });
    return true;
  }

  taken(sequence: number): void {
    while (this.#asked[0] && this.#asked[0].sequence <= sequence) {
      this.#takenBytes = this.#asked.shift()?.sentBytes ?? 0;
    }
  }

  /** The destination will tell nothing more. */
  endTelling(): void {
    this.#isTold = false;
    this.#takenBytes = this.#sentBytes;
  }
}

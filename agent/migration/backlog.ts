/**
 * What is on its way between the two hypervisors of a channel. Much of it makes a move quick: while the codec is busy the
 * link has something to carry, and the other way round. But QEMU takes for arrived what has left it, and a guest that
 * stops then stands still until all that has arrived.
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
  /** The next frame asks: the first tells how far the other host is, and under a lower limit there may be no other. */
  #asksNext = true;
  /** False: nobody tells, and what is in a frame counts as taken. */
  #isTold: boolean;
  /** What had been sent with each frame that was to be answered, oldest first. */
  #asked: { readonly sequence: number; readonly sentBytes: number; readonly atMs: number }[] = [];
  #answerMs = Infinity;
  readonly #now: () => number;

  constructor(usualBytes: number, isTold: boolean, now = () => performance.now()) {
    this.#usualBytes = this.#limitBytes = usualBytes;
    this.#isTold = isTold;
    this.#now = now;
  }

  get bytes(): number {
    return this.#saidBytes - this.#takenBytes;
  }

  /** The quickest answer so far, milliseconds: the way there and back, mostly. 0: there was none. */
  get answerMs(): number {
    return Number.isFinite(this.#answerMs) ? this.#answerMs : 0;
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
    this.#asked.push({ sequence, sentBytes: this.#sentBytes, atMs: this.#now() });
    return true;
  }

  taken(sequence: number): void {
    for (let [first] = this.#asked; first && first.sequence <= sequence; [first] = this.#asked) {
      this.#asked.shift();
      this.#takenBytes = first.sentBytes;
      this.#answerMs = Math.min(this.#answerMs, this.#now() - first.atMs);
    }
  }

  /** The destination will tell nothing more. */
  endTelling(): void {
    this.#isTold = false;
    this.#takenBytes = this.#sentBytes;
  }
}

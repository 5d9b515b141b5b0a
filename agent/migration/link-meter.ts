/**
 * How fast the network takes what it is given. Only the time counts in which something waited to be sent, so a
 * hypervisor that has little to say does not make the link look slow.
 */

/** The past counts half as much after so much more waiting. */
const halfLifeMs = 500;
/** Below this a rate is a guess: the kernel's buffer takes the first megabytes at once. */
const enoughBytes = 4 * 1024 * 1024;

export class LinkMeter {
  readonly #now: () => number;
  readonly #limit: number;
  #waitingBytes = 0;
  #markedAt = 0;
  #bytes = 0;
  #ms = 0;
  #totalBytes = 0;

  /** @param limit bytes per second that may be sent at most; 0: no limit */
  constructor(limit = 0, now: () => number = () => performance.now()) {
    this.#limit = limit === 0 ? Infinity : limit;
    this.#now = now;
  }

  /** So many bytes were handed to the network. */
  begin(bytes: number): void {
    if (this.#waitingBytes === 0) this.#markedAt = this.#now();
    this.#waitingBytes += bytes;
  }

  /** So many bytes of those have left. */
  done(bytes: number): void {
    const now = this.#now();
    const passedMs = now - this.#markedAt;
    const keep = 0.5 ** (passedMs / halfLifeMs);
    this.#ms = this.#ms * keep + passedMs;
    this.#bytes = this.#bytes * keep + bytes;
    this.#totalBytes += bytes;
    this.#markedAt = now;
    this.#waitingBytes -= bytes;
  }

  /** Those will never leave: their connection is gone. */
  drop(bytes: number): void {
    this.#waitingBytes -= bytes;
  }

  /** Bytes per second; undefined while too little was sent to know. */
  get rate(): number | undefined {
    const known = this.#totalBytes >= enoughBytes && this.#ms > 0;
    const rate = Math.min(this.#limit, known ? (this.#bytes * 1000) / this.#ms : Infinity);
    return rate === Infinity ? undefined : rate;
  }
}

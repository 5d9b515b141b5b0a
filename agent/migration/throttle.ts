/** Keeps the bytes of a move, all its channels together, under a rate: whoever wants to send waits for its turn. */
import { sleep } from "#kernel/retry.ts";

export class Throttle {
  readonly #bytesPerSecond: number;
  readonly #now: () => number;
  /** When everything that was let through so far will have gone at the rate allowed. */
  #paidUntil = 0;

  /** @param bytesPerSecond 0: no limit */
  constructor(bytesPerSecond: number, now: () => number = () => performance.now()) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#now = now;
  }

  /** How long the sender of so many bytes has to wait first; counts them as sent. */
  claim(bytes: number): number {
    if (this.#bytesPerSecond === 0) return 0;
    const now = this.#now();
    const startsAt = Math.max(now, this.#paidUntil);
    this.#paidUntil = startsAt + (bytes / this.#bytesPerSecond) * 1000;
    return startsAt - now;
  }

  async wait(bytes: number, signal: AbortSignal): Promise<void> {
    const waitMs = this.claim(bytes);
    if (waitMs >= 1) await sleep(waitMs, signal);
  }

  /** Frames that are small enough for the rate to be even; at least 32 KiB, so that coding them is worth it. */
  blockBytes(most: number): number {
    if (this.#bytesPerSecond === 0) return most;
    return Math.min(most, Math.max(32 * 1024, Math.floor(this.#bytesPerSecond / 8)));
  }
}

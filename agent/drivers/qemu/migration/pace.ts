/**
 * How fast memory leaves the host, how long the rest will take, and whether rounds get anywhere. Pure of clocks: each
 * sample brings its time.
 */

export interface MemorySample {
  readonly atMs: number;
  readonly remaining: number;
  readonly transferred: number;
  readonly rounds: number;
}

/** Weight of the newest measurement. */
const freshness = 0.4;
const leastIntervalMs = 15;
/** A round that leaves at least this part of the best one's rest gets nowhere. */
const progressRatio = 0.9;
const stallRounds = 4;
/** So few are enough when they last so many times longer than one has to be patient. */
const longRounds = { rounds: 2, times: 2 };

export class Pace {
  #last: MemorySample | undefined;
  /** Bytes per millisecond. */
  #sent = 0;
  #drained = 0;
  #dirtied = 0;
  #roundPeak = 0;
  #roundAtMs = 0;
  #best = Infinity;
  #idleRounds = 0;
  #progressAtMs: number | undefined;

  /** Bytes per second that the hypervisor writes. */
  get throughput(): number {
    return this.#sent * 1000;
  }

  /** Bytes per second that the guest writes to anew, by what each round had to carry again. */
  get dirtyRate(): number {
    return this.#dirtied * 1000;
  }

  /** Milliseconds that the best of the rounds since {@link forgive} would have taken. */
  get bestMs(): number {
    return Number.isFinite(this.#best) ? this.timeFor(this.#best) : 0;
  }

  /** Takes a sample in. @param held the stream was held back on purpose, so nothing can be learned from it */
  add(sample: MemorySample, held: boolean): void {
    const last = this.#last;
    this.#progressAtMs ??= sample.atMs;
    if (last && sample.atMs - last.atMs < leastIntervalMs && sample.rounds === last.rounds) return;
    this.#last = sample;
    if (held || !last) {
      this.#forgetRounds(sample);
      return;
    }
    const ms = Math.max(1, sample.atMs - last.atMs);
    this.#sent = blend(this.#sent, Math.max(0, sample.transferred - last.transferred) / ms);
    // A new round adds what was dirtied; only within one does the rest tell how fast it goes.
    if (sample.rounds === last.rounds) {
      this.#drained = blend(this.#drained, Math.max(0, last.remaining - sample.remaining) / ms);
      this.#roundPeak = Math.max(this.#roundPeak, sample.remaining);
    } else this.#closeRound(sample, sample.rounds - last.rounds);
  }

  /** Milliseconds that `bytes` would take; Infinity before anything was measured. */
  timeFor(bytes: number): number {
    const rate = Math.max(this.#drained, this.#sent);
    return bytes === 0 ? 0 : rate === 0 ? Infinity : bytes / rate;
  }

  /** Several rounds and at least `patienceMs` in a row have not brought the end nearer. */
  stalled(atMs: number, patienceMs: number): boolean {
    const sinceMs = atMs - (this.#progressAtMs ?? atMs);
    const { rounds, times } = longRounds;
    return (
      (this.#idleRounds >= stallRounds && sinceMs >= patienceMs) ||
      (this.#idleRounds >= rounds && sinceMs >= times * patienceMs)
    );
  }

  /** Another way is tried; what was so far does not count against it. */
  forgive(atMs: number): void {
    this.#best = Infinity;
    this.#idleRounds = 0;
    this.#progressAtMs = atMs;
  }

  /** Nearly all that the next one has to carry was written to during this one. */
  #closeRound(sample: MemorySample, rounds: number): void {
    const ms = Math.max(1, sample.atMs - this.#roundAtMs);
    this.#dirtied = blend(this.#dirtied, sample.remaining / ms);
    this.#roundAtMs = sample.atMs;
    if (this.#roundPeak < this.#best * progressRatio) {
      this.#best = this.#roundPeak;
      this.#idleRounds = 0;
      this.#progressAtMs = sample.atMs;
    } else this.#idleRounds += rounds;
    this.#roundPeak = sample.remaining;
  }

  #forgetRounds(sample: MemorySample): void {
    this.forgive(sample.atMs);
    this.#roundPeak = sample.remaining;
    this.#roundAtMs = sample.atMs;
  }
}

function blend(before: number, now: number): number {
  return before === 0 ? now : before * (1 - freshness) + now * freshness;
}

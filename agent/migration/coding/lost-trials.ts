/**
 * Which codecs have lost a trial on the way to a host. What they lost by is the link, and the cores at both ends: the next
 * move there need not pay for the same trial.
 */
import type { Method } from "./codecs.ts";

/** A link, and what else its hosts do, may have changed by then. */
const rememberMs = 10 * 60_000;

export class LostTrials {
  readonly #until = new Map<string, number>();
  readonly #now: () => number;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** What is known, and will be, of the way to one host. */
  towards(hostId: string): LostOnTheWay {
    const keyOf = ({ codec, level }: Method) => `${hostId}/${String(codec)}/${String(level)}`;
    return {
      has: (method) => (this.#until.get(keyOf(method)) ?? -Infinity) > this.#now(),
      add: (method) => {
        this.#forget();
        this.#until.set(keyOf(method), this.#now() + rememberMs);
      },
    };
  }

  #forget(): void {
    for (const [key, until] of this.#until) if (until <= this.#now()) this.#until.delete(key);
  }
}

export interface LostOnTheWay {
  has(method: Method): boolean;
  add(method: Method): void;
}

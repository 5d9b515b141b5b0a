/**
 * How many refusals of people without a name are written down: enough to see that somebody tries doors, and so few that
 * trying doors does not fill the log.
 */
import { BoundedCache } from "./bounded-cache.ts";

const windowMs = 60_000;
const perAddress = 10;
const altogether = 100;
const addresses = 1000;

export class RefusalBudget {
  readonly #now: () => number;
  #window = 0;
  #total = 0;
  #byAddress = new BoundedCache<number>(addresses);

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Whether one more from this address is written down. */
  take(address: string): boolean {
    const window = Math.floor(this.#now() / windowMs);
    if (window !== this.#window) {
      this.#window = window;
      this.#total = 0;
      this.#byAddress = new BoundedCache<number>(addresses);
    }
    const here = this.#byAddress.get(address) ?? 0;
    if (here >= perAddress || this.#total >= altogether) return false;
    this.#byAddress.set(address, here + 1);
    this.#total++;
    return true;
  }
}

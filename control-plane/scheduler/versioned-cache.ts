interface Versioned {
  readonly version: number;
}

/** Keeps what was worked out from one version of something; the oldest goes when it becomes too much. */
export class VersionedCache<T extends Versioned> {
  readonly #budget: number;
  readonly #weigh: (value: T) => number;
  readonly #values = new Map<string, T>();
  #weight = 0;

  constructor(budget: number, weigh: (value: T) => number) {
    this.#budget = budget;
    this.#weigh = weigh;
  }

  get(key: string, version: number, make: () => T): T {
    const known = this.#values.get(key);
    if (known?.version === version) return known;
    if (known) this.#drop(key, known);
    const value = make();
    this.#values.set(key, value);
    this.#weight += 1 + this.#weigh(value);
    for (const [oldest, old] of this.#values) {
      if (this.#weight <= this.#budget) break;
      this.#drop(oldest, old);
    }
    return value;
  }

  #drop(key: string, value: T): void {
    this.#values.delete(key);
    this.#weight -= 1 + this.#weigh(value);
  }
}

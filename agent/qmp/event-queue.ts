/**
 * Events on their way from one producer to one consumer. What comes before the consumer looks is kept, up to a limit,
 * past which the oldest goes: events are hints, whoever reads them looks at the state anyway.
 */
export class EventQueue<T> {
  readonly #limit: number;
  readonly #items: T[] = [];
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(limit = 1024) {
    this.#limit = limit;
  }

  push(item: T): void {
    if (this.#ended) return;
    if (this.#items.length >= this.#limit) this.#items.shift();
    this.#items.push(item);
    this.#wake?.();
  }

  /** Nothing comes after what is queued. */
  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** What is queued, then what comes, until the end or the signal. */
  async *drain(signal: AbortSignal): AsyncGenerator<T, void> {
    const wake = () => this.#wake?.();
    signal.addEventListener("abort", wake);
    try {
      while (!signal.aborted) {
        const item = this.#items.shift();
        if (item !== undefined) yield item;
        else if (this.#ended) return;
        else await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      signal.removeEventListener("abort", wake);
    }
  }
}

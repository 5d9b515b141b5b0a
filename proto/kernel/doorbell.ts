/**
 * Wakes a loop that rests between its looks. A ring is never lost: one that comes while the loop is busy ends its next
 * rest at once, and any number of them are one look.
 */
export class Doorbell {
  #rung = false;
  #answer: () => void = () => undefined;

  /** Whether it has rung since it was last heard. */
  get rung(): boolean {
    return this.#rung;
  }

  ring(): void {
    this.#rung = true;
    this.#answer();
  }

  /** Call before a look, not after: what rings meanwhile may be news to it. */
  hear(): void {
    this.#rung = false;
  }

  /** Rests until it rings, at most `ms`; no time at all when it has rung unheard. */
  rest(ms: number): Promise<void> {
    if (this.#rung) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#answer = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

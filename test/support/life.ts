/**
 * One life of a process that is played inside another: what it holds is shared with it, and when it is killed nothing
 * that it asked for is answered any more and nothing that it asks for happens. What it had in hand comes to its end
 * first, as a system call would; what it held, hypervisors and files, lives on.
 */

/** Neither a call's answer nor a stream's next element ever comes. */
const silence = Object.assign(new Promise<never>(() => undefined), {
  [Symbol.asyncIterator]: () => ({ next: () => silence }),
});

/** Calls that only look, and answer at once. */
const looks = new Set(["find", "list", "nextSeq"]);

type Method = (...values: unknown[]) => unknown;

export class Life {
  readonly #killed = new AbortController();
  readonly #inHand = new Set<Promise<unknown>>();

  /** Resolves when it is killed. */
  readonly ended: Promise<void> = new Promise((resolve) => {
    this.#killed.signal.addEventListener("abort", () => resolve(), { once: true });
  });

  /** Aborts when it is killed. */
  get signal(): AbortSignal {
    return this.#killed.signal;
  }

  get isOver(): boolean {
    return this.#killed.signal.aborted;
  }

  /** The same thing, as long as it lives. */
  share<T extends object>(thing: T): T {
    const shared: T = new Proxy(thing, {
      get: (_, name) => {
        const member: unknown = Reflect.get(thing, name, thing);
        if (name === Symbol.asyncIterator) return () => shared;
        if (typeof member === "function") {
          const method = member as Method;
          return (...values: unknown[]) =>
            this.#call(String(name), () =>
              method.apply(
                thing,
                values.map((value) => this.#mortal(value)),
              ),
            );
        }
        return isPlain(member) ? this.share(member) : member;
      },
    });
    return shared;
  }

  /** What is to have ended before the next life begins. */
  hold<T>(work: Promise<T>): Promise<T> {
    const ended: Promise<unknown> = work.then(
      () => this.#inHand.delete(ended),
      () => this.#inHand.delete(ended),
    );
    this.#inHand.add(ended);
    return work;
  }

  /** `kill -9`. Resolves when what was in hand has come to its end. */
  async kill(): Promise<void> {
    this.#killed.abort();
    while (this.#inHand.size > 0) await Promise.all(this.#inHand);
  }

  #call(name: string, call: () => unknown): unknown {
    if (this.isOver) return looks.has(name) ? call() : silence;
    const result = call();
    if (result instanceof Promise) return this.#answer(result);
    return isStream(result) ? this.share(result) : result;
  }

  #answer(result: Promise<unknown>): Promise<unknown> {
    void this.hold(result);
    return new Promise((resolve, reject) => {
      result.then(
        (value) => {
          if (!this.isOver) resolve(value);
        },
        (reason: Error) => {
          if (!this.isOver) reject(reason);
        },
      );
    });
  }

  /** Whoever waits for it in its name need not wait any longer. */
  #mortal(value: unknown): unknown {
    const own = this.#killed.signal;
    return value instanceof AbortSignal && value !== own ? AbortSignal.any([value, own]) : value;
  }
}

function isStream(value: unknown): value is AsyncGenerator {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}

/** Parts of a thing, as a driver's `liveMigration`; values are not shared. */
function isPlain(value: unknown): value is object {
  return typeof value === "object" && value !== null && !(value instanceof Set);
}

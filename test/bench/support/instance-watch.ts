/** One watch of all instances, from which any number of callers learn what became of theirs. */
import type { Skerry } from "#sdk/index.ts";
import { deadline } from "#kernel/retry.ts";

/** A run of an hour is not to end for one hiccup of a machine that is full to the brim. */
const waitLimitMs = 120_000;
/** No name and no id. */
const synced = "";

export class InstanceWatch implements AsyncDisposable {
  readonly #stop = new AbortController();
  /** By name for `running`, which may be seen before the create is answered; by id for the end. */
  readonly #waiting = new Map<string, (failure?: Error) => void>();
  readonly #following: Promise<void>;
  #failure: Error | undefined;

  private constructor(client: Skerry, signal: AbortSignal) {
    this.#following = this.#follow(client, AbortSignal.any([this.#stop.signal, signal]));
  }

  /** Opens the watch; it has told what is there already when this returns. */
  static async open(client: Skerry, signal: AbortSignal): Promise<InstanceWatch> {
    const watch = new InstanceWatch(client, signal);
    await watch.#wait(synced, "the watch to begin");
    return watch;
  }

  /** To be asked before the create is sent. Throws when it fails instead, or takes too long. */
  untilRunning(name: string): Promise<void> {
    return this.#wait(name, `${name} to run`);
  }

  untilGone(id: string): Promise<void> {
    return this.#wait(id, `${id} to be gone`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#following;
  }

  async #follow(client: Skerry, signal: AbortSignal): Promise<void> {
    try {
      for await (const event of client.instances.watch({}, { signal })) {
        if (event.type === "synced") this.#waiting.get(synced)?.();
        else if (event.type === "removed") this.#waiting.get(event.id)?.();
        else if (event.resource.phase === "running") this.#waiting.get(event.resource.name)?.();
        else if (event.resource.phase === "failed") {
          const { name, problem } = event.resource;
          this.#waiting.get(name)?.(new Error(`${name} failed: ${problem?.message ?? ""}`));
        }
      }
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#failure = error as Error;
      for (const end of this.#waiting.values()) end(this.#failure);
    }
  }

  #wait(key: string, what: string): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure);
    const limit = deadline(waitLimitMs, `waiting for ${what}`);
    return new Promise<void>((resolve, reject) => {
      const end = (failure?: Error) => (failure ? reject(failure) : resolve());
      this.#waiting.set(key, end);
      limit.addEventListener("abort", () => end(limit.reason as Error), { once: true });
    }).finally(() => {
      this.#waiting.delete(key);
      limit[Symbol.dispose]();
    });
  }
}

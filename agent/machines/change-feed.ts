/** Tells everybody who watches what became of machines: the reporter, and WatchMachines streams. */
import { EventEmitter } from "node:events";
import type { Machine } from "#gen/skerry/agent/v1/machine_pb.js";
import type { Fence } from "./fence.ts";

export interface Removal {
  readonly id: string;
  readonly seq: bigint;
  readonly fence: Fence;
}

export type Change = { readonly changed: Machine } | { readonly removed: Removal };

export class ChangeFeed {
  readonly #emitter = new EventEmitter().setMaxListeners(0);
  /** Machines whose command is being waited for, with the number of those who wait. */
  readonly #awaited = new Map<string, number>();

  publish(change: Change): void {
    this.#emitter.emit("change", change);
  }

  /** Whoever commanded the machine waits for the outcome, and will have it in the answer: nobody else need hurry to tell. */
  awaited(id: string): Disposable {
    this.#awaited.set(id, (this.#awaited.get(id) ?? 0) + 1);
    return {
      [Symbol.dispose]: () => {
        const others = (this.#awaited.get(id) ?? 1) - 1;
        if (others > 0) this.#awaited.set(id, others);
        else this.#awaited.delete(id);
      },
    };
  }

  isAwaited(id: string): boolean {
    return this.#awaited.has(id);
  }

  subscribe(listener: (change: Change) => void): Disposable {
    this.#emitter.on("change", listener);
    return { [Symbol.dispose]: () => this.#emitter.off("change", listener) };
  }

  /**
   * Every change from now on (not from the first `next`), until the signal aborts. A slow reader gets the
   * latest of each machine and not every one, so that what waits for it is bounded by the machines.
   */
  watch(signal: AbortSignal): AsyncGenerator<Change> {
    const waiting = new Map<string, Change>();
    let wake = () => undefined as void;
    const subscription = this.subscribe((change) => {
      waiting.set("changed" in change ? change.changed.id : change.removed.id, change);
      wake();
    });
    const stop = () => {
      subscription[Symbol.dispose]();
      wake();
    };
    signal.addEventListener("abort", stop, { once: true });
    return drain(waiting, signal, (waker) => (wake = waker));
  }
}

async function* drain(
  waiting: Map<string, Change>,
  signal: AbortSignal,
  onWake: (waker: () => void) => void,
): AsyncGenerator<Change> {
  while (!signal.aborted) {
    for (const [id, change] of waiting) {
      waiting.delete(id);
      yield change;
    }
    if (waiting.size > 0 || signal.aborted) continue;
    await new Promise<void>(onWake);
  }
}

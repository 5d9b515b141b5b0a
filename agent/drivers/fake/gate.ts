/** Where calls to the fake driver wait, take their time, and fail as told. */
import { Fault } from "#kernel/fault.ts";
import { sleep } from "#kernel/retry.ts";
import type { FakeCall, FakeFailure, FakeKnobs } from "./knobs.ts";

export class Gate {
  #stepping: FakeKnobs["stepping"] = "auto";
  #hold: readonly FakeCall[] = [];
  #delayMs = 0;
  #given: readonly FakeFailure[] = [];
  #failures: { readonly failure: FakeFailure; left: number }[] = [];
  /** Who is to be let through, and what it wants to do. */
  readonly #waiting = new Map<() => void, FakeCall>();

  set(knobs: Pick<FakeKnobs, "stepping" | "delayMs" | "failures" | "hold">): void {
    const { stepping, delayMs, failures, hold } = knobs;
    this.#stepping = stepping;
    this.#hold = hold;
    this.#delayMs = delayMs;
    // The same list again is another knob being turned: what was used up stays used up.
    if (failures !== this.#given)
      this.#failures = failures.map((failure) => ({ failure, left: failure.times }));
    this.#given = failures;
    for (const [release, call] of [...this.#waiting]) if (!this.#holds(call)) release();
  }

  /** Calls that wait to be let through. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Lets the call that waited longest through; false when none waits. */
  step(): boolean {
    const [release] = this.#waiting.keys();
    release?.();
    return release !== undefined;
  }

  /** A call comes in: it waits, takes its time, and may fail before it has an effect. */
  async enter(call: FakeCall, signal: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    if (this.#holds(call)) await this.#queue(call, signal);
    if (this.#delayMs > 0) await sleep(this.#delayMs, signal);
    this.#fail(call, "before");
  }

  /** The call has had its effect and may still fail. */
  leave(call: FakeCall): void {
    this.#fail(call, "after");
  }

  #holds(call: FakeCall): boolean {
    return this.#hold.includes(call) || (call === "ensure" && this.#stepping === "manual");
  }

  #queue(call: FakeCall, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiting.delete(release);
        signal.removeEventListener("abort", abort);
      };
      const release = () => {
        leave();
        resolve();
      };
      const abort = () => {
        leave();
        reject(aborted(signal));
      };
      this.#waiting.set(release, call);
      signal.addEventListener("abort", abort, { once: true });
    });
  }

  #fail(call: FakeCall, when: FakeFailure["when"]): void {
    const due = this.#failures.find(
      ({ failure, left }) => left > 0 && failure.call === call && failure.when === when,
    );
    if (!due) return;
    due.left--;
    throw new Fault(due.failure.code, `the fake driver was told to fail ${call}`, {
      reason: due.failure.reason,
    });
  }
}

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw aborted(signal);
}

function aborted(signal: AbortSignal): Fault {
  if (signal.reason instanceof Fault) return signal.reason;
  return new Fault("unavailable", "the call was cancelled", { reason: "CANCELLED", cause: signal.reason });
}

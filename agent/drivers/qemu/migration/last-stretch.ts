/** Whether a guest that is nearly gone may stop: what is on its way then keeps it standing still until it has arrived. */
import type { MemoryBacklog } from "../../driver.ts";

/** With less than that to go, little may be on its way: what takes so much longer than the way there and back. */
const nearMs = 300;
const takesMs = 25;
const leastBytes = 128 * 1024;
/** A limit is noticed after a read, which brings what the kernel holds of a unix socket. */
const readBytes = 256 * 1024;

export class LastStretch {
  readonly #backlog: MemoryBacklog;
  /** The most that may be on its way; 0: as much as is quickest. */
  #limitBytes = 0;

  constructor(backlog: MemoryBacklog) {
    this.#backlog = backlog;
  }

  /**
   * True when the guest may stop as far as this is concerned; until then what is on its way is kept short.
   * @param leftMs how long what is left will take
   * @param downtimeMs how long it may take the guest when it stops
   * @param throughput of the hypervisor, bytes per second
   */
  look(leftMs: number, downtimeMs: number, throughput: number): boolean {
    const backlog = this.#backlog;
    const near = Math.max(nearMs, 2 * downtimeMs);
    if (leftMs >= (this.#limitBytes > 0 ? 2 * near : near)) {
      this.#limitBytes = 0;
      backlog.limit(undefined);
      return false;
    }
    if (this.#limitBytes === 0) {
      this.#limitBytes = Math.max(leastBytes, (throughput * (backlog.answerMs + takesMs)) / 1000);
      backlog.limit(this.#limitBytes);
    }
    return backlog.bytes <= this.#limitBytes + readBytes;
  }
}

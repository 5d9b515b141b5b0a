/**
 * How much of a guest's memory may be on its way, and whether a guest that is nearly gone may stop: what is on its way then
 * keeps it standing still until it has arrived.
 */
import type { MemoryBacklog } from "../../driver.ts";

/** Usually what takes so long: QEMU ends by itself when all that is left is zero, and the guest waits for no more than that. */
const usualMs = 250;
const leastUsualBytes = 1024 * 1024;
/** With less than that to go, little may be on its way: what takes so much longer than the way there and back. */
const nearMs = 300;
const takesMs = 25;
const leastBytes = 128 * 1024;
/** A limit is noticed after a read, which brings what the kernel holds of a unix socket. */
const readBytes = 256 * 1024;
/** Weight of the newest measurement: a link takes blocks, and one look sees none of them, the next two. */
const freshness = 0.1;

export class LastStretch {
  /** Bytes per second, as it went while there was much to go. */
  #throughput = 0;
  /** The most that may be on its way near the end; 0: that is far. */
  #limitBytes = 0;

  /**
   * True when the guest may stop as far as this is concerned; until then what is on its way is kept short.
   * @param leftMs how long what is left will take
   * @param downtimeMs how long it may take the guest when it stops
   * @param throughput of the hypervisor, bytes per second
   */
  look(backlog: MemoryBacklog, leftMs: number, downtimeMs: number, throughput: number): boolean {
    const near = Math.max(nearMs, 2 * downtimeMs);
    if (leftMs >= (this.#limitBytes > 0 ? 2 * near : near)) {
      this.#limitBytes = 0;
      this.#learn(throughput);
      backlog.limit(this.#throughput > 0 ? Math.max(leastUsualBytes, this.#bytesIn(usualMs)) : undefined);
      return false;
    }
    if (this.#limitBytes === 0) {
      if (this.#throughput === 0) this.#learn(throughput);
      this.#limitBytes = Math.max(leastBytes, this.#bytesIn(backlog.answerMs + takesMs));
      backlog.limit(this.#limitBytes);
    }
    return backlog.bytes <= this.#limitBytes + readBytes;
  }

  #learn(throughput: number): void {
    const before = this.#throughput;
    this.#throughput = before === 0 ? throughput : before + (throughput - before) * freshness;
  }

  #bytesIn(ms: number): number {
    return (this.#throughput * ms) / 1000;
  }
}

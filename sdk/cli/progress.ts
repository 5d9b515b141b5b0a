/** Shows waiting on stderr: one line that is rewritten on a terminal, plain lines elsewhere. */
import { printable } from "#kernel/printable.ts";
import type { TextSink } from "./output.ts";
import { formatDuration } from "./units.ts";

export class Progress implements Disposable {
  readonly #sink: TextSink;
  readonly #startedAt = Date.now();
  #stage = "";
  #shown = "";
  #timer: NodeJS.Timeout | undefined;

  constructor(sink: TextSink) {
    this.#sink = sink;
    if (sink.isTTY) this.#timer = setInterval(() => this.#draw(), 1000).unref();
  }

  /**
   * Says where things are. `detail` (such as bytes done) changes often: it is shown on terminals, while
   * plain output gets a line only for a new stage.
   */
  update(stage: string, detail = ""): void {
    const changed = stage !== this.#stage;
    this.#stage = stage;
    this.#shown = detail ? `${stage} (${detail})` : stage;
    if (this.#sink.isTTY) this.#draw();
    else if (changed) this.#sink.write(`${printable(stage)}\n`);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    if (this.#sink.isTTY && this.#shown !== "") this.#sink.write("\r\u001b[K");
  }

  #draw(): void {
    if (this.#shown === "") return;
    const elapsed = formatDuration(Date.now() - this.#startedAt);
    // A line that wraps cannot be rewritten.
    const room = Math.max(20, (this.#sink.columns ?? Infinity) - elapsed.length - 3);
    const line = [...printable(this.#shown)];
    const fitting = line.length > room ? `${line.slice(0, room - 1).join("")}…` : line.join("");
    this.#sink.write(`\r\u001b[K${fitting}  ${elapsed}`);
  }
}

/** `45 % of 268 MiB`, or nothing when the total is not known. */
export function percentOf(done: number, total: number, formatted: string): string {
  return total > 0 ? `${Math.floor((100 * done) / total)} % of ${formatted}` : "";
}

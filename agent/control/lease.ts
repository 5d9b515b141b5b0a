/**
 * The host's lease: for how long machines with lease terms may run without a word from the control plane. It counts
 * from when the report was *sent*, by the time since this host's boot, which goes on in a suspended host and which
 * nobody can set: so it ends here no later than the control plane, which counts from when it heard, thinks it does.
 *
 * The end is on disk, for an agent that is started anew must neither give nor take any of it. After a reboot there is
 * no lease, whatever the file says.
 */
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import os from "node:os";
import { join } from "node:path";
import type { Logger } from "#kernel/log.ts";
import { DurableFolder } from "../machines/durable-file.ts";
import type { LeaseState } from "../machines/machine-deps.ts";

export interface LeaseOptions {
  /** The agent's own folder. */
  readonly directory: string;
  readonly log: Logger;
  /** Milliseconds since boot, suspension included. */
  readonly sinceBootMs?: () => number;
  readonly bootId?: string;
}

const fileName = "lease";
/** A timer stands still while the host is suspended: the end is looked for at least this often. */
const lookMs = 500;

export class Lease implements LeaseState {
  readonly #folder: DurableFolder;
  readonly #bootId: string;
  readonly #log: Logger;
  readonly #listeners = new Set<() => void>();
  #untilMs: number;
  /** As the listeners were told last. */
  #told: boolean;
  #saving: Promise<void> = Promise.resolve();
  #ending: NodeJS.Timeout | undefined;
  /** Milliseconds since boot. */
  readonly now: () => number;

  private constructor(options: LeaseOptions, bootId: string, untilMs: number) {
    this.#folder = new DurableFolder(options.directory);
    this.#bootId = bootId;
    this.#log = options.log;
    this.now = options.sinceBootMs ?? sinceBootMs;
    this.#untilMs = untilMs;
    this.#told = this.holds;
  }

  static async open(options: LeaseOptions): Promise<Lease> {
    const bootId = options.bootId ?? (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
    return new Lease(options, bootId, await readEnd(join(options.directory, fileName), bootId));
  }

  get holds(): boolean {
    return this.now() < this.#untilMs;
  }

  /** A report that went out at `sentAtMs` was answered with a lease. None leaves things as they are. */
  renew(sentAtMs: number, leaseMs: number): void {
    const untilMs = sentAtMs + leaseMs;
    if (leaseMs <= 0 || untilMs <= this.#untilMs) return;
    this.#untilMs = untilMs;
    this.#save();
    this.#tell(this.holds);
  }

  onChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Notices the lease's end, until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const looking = setInterval(() => this.#look(), lookMs);
    this.#look();
    if (!signal.aborted) await once(signal, "abort");
    clearInterval(looking);
    clearTimeout(this.#ending);
    await this.#saving;
  }

  #look(): void {
    const leftMs = this.#untilMs - this.now();
    this.#tell(leftMs > 0);
    clearTimeout(this.#ending);
    if (leftMs > 0 && leftMs < lookMs) this.#ending = setTimeout(() => this.#look(), Math.ceil(leftMs));
  }

  #tell(holds: boolean): void {
    if (holds === this.#told) return;
    this.#told = holds;
    this.#log[holds ? "info" : "warn"](holds ? "lease.renewed" : "lease.expired", {});
    for (const listener of this.#listeners) listener();
  }

  /** Not flushed: a power cut ends the lease anyway. */
  #save(): void {
    const text = `${JSON.stringify({ bootId: this.#bootId, untilMs: this.#untilMs })}\n`;
    this.#saving = this.#saving
      .then(() => this.#folder.overwrite(fileName, text))
      // An agent that is started anew has less of it then, which is safe.
      .catch((fault: unknown) => this.#log.error("lease.write", { fault }));
  }
}

/** What cannot be read is no lease. */
async function readEnd(path: string, bootId: string): Promise<number> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
  try {
    const [line = ""] = text.split("\n");
    const saved = JSON.parse(line) as { readonly bootId?: unknown; readonly untilMs?: unknown };
    return saved.bootId === bootId && typeof saved.untilMs === "number" ? saved.untilMs : 0;
  } catch {
    return 0;
  }
}

/** Not `performance.now()`, which stands still in a suspended host. */
function sinceBootMs(): number {
  return os.uptime() * 1000;
}

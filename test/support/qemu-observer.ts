/**
 * Watches a machine's QEMU processes on several hosts from outside: each one's run state, asked by a monitor of our
 * own every few milliseconds. A QEMU comes and goes as it likes; one that does not answer is asked again.
 */
import type { MigrationState } from "#agent/qmp/commands.ts";
import { connectSocket, monitorSocketNames } from "#agent/drivers/hypervisor/files.ts";
import { QmpSession } from "#agent/qmp/session.ts";
import { sleep } from "#kernel/retry.ts";
import { until } from "./until.ts";

const everyMs = 5;
const answerLimitMs = 2_000;
const soonMs = 10_000;
/** Agents want the first, so this begins with the other. A QEMU that was slow to greet its agent gave it that one. */
const monitors = [...monitorSocketNames].reverse();

/** What one of the QEMUs does at this moment. */
export interface QemuView {
  readonly running: boolean;
  /** As QEMU calls it. */
  readonly status: string;
  /** Its disk is being copied to another host. */
  readonly copies: boolean;
  readonly migration: MigrationState | "none";
  /** Bytes of memory that it has written to whoever carries them. */
  readonly sentBytes: number;
}

export class QemuObserver implements AsyncDisposable {
  /** Every time that two were seen running at once. */
  readonly seen: string[] = [];
  samples = 0;
  readonly #folders: ReadonlyMap<string, string>;
  readonly #sessions = new Map<string, Promise<QmpSession>>();
  readonly #over = new AbortController();
  readonly #watching: Promise<void>;

  /** @param folders of the machine, by host */
  constructor(folders: Readonly<Record<string, string>>) {
    this.#folders = new Map(Object.entries(folders));
    this.#watching = this.#watch();
  }

  /** Hosts on which it runs at this moment. */
  async running(): Promise<string[]> {
    const states = await Promise.all(
      Array.from(this.#folders.keys(), async (host) => {
        const status = await this.#ask(host, (qemu, limits) => qemu.execute("query-status", {}, limits));
        return status?.running === true ? [host] : [];
      }),
    );
    return states.flat();
  }

  /** The same, where one should: a QEMU that was struck may have other callers to greet before it answers us. */
  async runningSoon(): Promise<string[]> {
    let hosts: string[] = [];
    const isSeen = async () => (hosts = await this.running()).length > 0;
    await until(isSeen, soonMs, everyMs).catch(() => undefined); // nowhere, then
    return hosts;
  }

  /** What is on each host, for whoever asks why. */
  async looks(): Promise<readonly { host: string; seen: QemuView | undefined }[]> {
    const hosts = [...this.#folders.keys()];
    return Promise.all(hosts.map(async (host) => ({ host, seen: await this.look(host) })));
  }

  /** Undefined when there is none on this host, or it does not answer. */
  async look(host: string): Promise<QemuView | undefined> {
    return await this.#ask(host, async (qemu, limits) => {
      const [{ running, status }, { status: migration, ram }, jobs] = await Promise.all([
        qemu.execute("query-status", {}, limits),
        qemu.execute("query-migrate", {}, limits),
        qemu.execute("query-block-jobs", {}, limits),
      ]);
      const sentBytes = ram?.transferred ?? 0;
      return { running, status, copies: jobs.length > 0, migration: migration ?? "none", sentBytes };
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    await this.#watching;
    for (const host of this.#folders.keys()) this.#drop(host);
  }

  async #watch(): Promise<void> {
    while (!this.#over.signal.aborted) {
      this.samples++;
      const running = await this.running();
      // The answers are not of one moment: only what is still so is true.
      if (running.length > 1 && (await this.running()).length > 1) {
        this.seen.push(`it runs on ${running.join(" and ")}`);
      }
      await sleep(everyMs, this.#over.signal).catch(() => undefined); // aborted: the loop ends
    }
  }

  async #ask<T>(
    host: string,
    question: (qemu: QmpSession, limits: { signal: AbortSignal }) => Promise<T>,
  ): Promise<T | undefined> {
    const limits = { signal: AbortSignal.timeout(answerLimitMs) };
    let opening: Promise<QmpSession> | undefined;
    try {
      opening = this.#sessions.get(host) ?? this.#open(host, limits);
      this.#sessions.set(host, opening);
      return await question(await opening, limits);
    } catch {
      // None is there, it ends, or it hangs: whatever does not answer is looked for anew.
      if (this.#sessions.get(host) === opening) this.#drop(host);
      return undefined;
    }
  }

  async #open(host: string, limits: { signal: AbortSignal }): Promise<QmpSession> {
    const folder = this.#folders.get(host);
    if (folder === undefined) throw new Error(`nobody watches ${host}`);
    let last: unknown;
    for (const monitor of monitors) {
      const signal = AbortSignal.any([limits.signal, AbortSignal.timeout(answerLimitMs / monitors.length)]);
      try {
        return await QmpSession.open(await connectSocket(folder, monitor, signal), { signal });
      } catch (thrown) {
        last = thrown;
      }
    }
    throw last;
  }

  #drop(host: string): void {
    const opening = this.#sessions.get(host);
    this.#sessions.delete(host);
    opening?.then(
      (session) => session[Symbol.dispose](),
      () => undefined, // it was never there
    );
  }
}

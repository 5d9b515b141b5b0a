/** The page stage of one move, at either end: which files both hosts have, ready in the coding threads. */
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { deadline } from "#kernel/retry.ts";
import { unlessAborted } from "#kernel/stall.ts";
import type { PageFile } from "../coding/tasks.ts";
import type { CodingWorkers } from "../coding/workers.ts";
import type { PageFiles, PageSource } from "./page-files.ts";
import type { PageTable } from "./table.ts";

export interface PageStageOptions {
  readonly files: PageFiles;
  readonly sources: readonly PageSource[];
}

/** A move waits so long for the files to be ready; they are made so while its disk is copied. */
const readyTimeoutMs = 20_000;

interface Ready {
  readonly files: readonly PageFile[];
  /** At the source. */
  readonly table?: PageTable;
}

export interface OpenPages {
  readonly pageSet: number;
  readonly sha256s: readonly string[];
}

export class PageStage implements AsyncDisposable {
  readonly #workers: CodingWorkers;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  readonly #ready: Promise<Ready>;
  readonly #sets = new Set<number>();

  /** Begins to make the files ready. The threads are in use as long as this lives. */
  constructor(deps: {
    readonly workers: CodingWorkers;
    readonly pages: PageStageOptions;
    /** The source looks pages up; the destination only reads them. */
    readonly role: "source" | "destination";
    readonly log: Logger;
  }) {
    this.#workers = deps.workers;
    this.#log = deps.log;
    this.#ready = this.#prepare(deps.pages, deps.role);
    this.#ready.catch(() => undefined); // whoever waits for it hears of it
  }

  /**
   * Opens the files in the threads; undefined, and a move without them, when they are not ready in time.
   * @param peer at the source: the files that the destination offers, as it counts them
   */
  async open(signal: AbortSignal, peer?: readonly string[]): Promise<OpenPages | undefined> {
    try {
      using limit = deadline(readyTimeoutMs, "making the image's pages ready", signal);
      const { files, table } = await unlessAborted(this.#ready, limit);
      const common = peer ? files.filter(({ sha256 }) => peer.includes(sha256)) : files;
      if (common.length === 0) return undefined;
      const pageSet = this.#workers.newPageSet();
      this.#sets.add(pageSet);
      const lookUp =
        table && peer ? { table, peerNumbers: files.map(({ sha256 }) => peer.indexOf(sha256)) } : {};
      await this.#workers.runOnAll({ type: "open-pages", pageSet, files, ...lookUp });
      return { pageSet, sha256s: files.map(({ sha256 }) => sha256) };
    } catch (thrown) {
      if (signal.aborted) throw thrown;
      this.#log.warn("move.page-stage-off", { fault: toFault(thrown) });
      return undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Fault("unavailable", "the move has ended", { reason: "MOVE_ENDED" }));
    await this.#ready.catch(() => undefined); // it has no more to give
    for (const pageSet of this.#sets) await this.#workers.runOnAll({ type: "close-pages", pageSet });
  }

  async #prepare({ files: pageFiles, sources }: PageStageOptions, role: string): Promise<Ready> {
    const files = await pageFiles.prepare(sources, this.#stop.signal);
    if (role === "destination" || files.length === 0 || this.#stop.signal.aborted) return { files };
    const startedAt = performance.now();
    const table = await this.#workers.run({ type: "index", files });
    this.#log.info("move.pages-indexed", {
      ms: Math.round(performance.now() - startedAt),
      blocks: table.blocks,
    });
    return { files, table };
  }
}

/**
 * The threads that code and decode frames, and the memory that they share with the main thread: for all moves of this host,
 * while there are any.
 */
import { availableParallelism } from "node:os";
import { extname } from "node:path";
import { Worker } from "node:worker_threads";
import { Fault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { defaultLimits } from "../protocol.ts";
import { Slabs } from "../slabs.ts";
import type { Answer, DecodeTask, EncodeTask, Results, Task } from "./tasks.ts";

/** One is too slow for fast links; but a core is left to the guests and the network. */
export const codingThreads = Math.max(1, Math.min(2, availableParallelism() - 1));

/**
 * They stay for so long after the last move: a host is left by one machine after the other, and in new threads V8
 * compiles everything anew.
 */
const idleMs = 300_000;
/** Of a slab, besides a block: the head of its frame, and what a block may grow by. */
const headRoomBytes = 1024;

interface Pending {
  readonly resolve: (result: Results[keyof Results]) => void;
  readonly reject: (fault: Fault) => void;
}

interface Thread {
  readonly worker: Worker;
  readonly pending: Map<number, Pending>;
}

export interface BlockCoder {
  run<T extends EncodeTask | DecodeTask>(task: T): Promise<Results[T["type"]]>;
}

export interface CodingStream extends BlockCoder, Disposable {}

export class CodingWorkers implements AsyncDisposable {
  /** V8 is slow to give back what one move leaves, so the next one uses it. */
  readonly slabs = new Slabs(defaultLimits.blockBytes + headRoomBytes);
  readonly #log: Logger;
  #threads: Thread[] = [];
  #users = 0;
  #idle: NodeJS.Timeout | undefined;
  #lastId = 0;
  #lastPageSet = 0;
  #lastStream = 0;

  constructor({ log }: { readonly log: Logger }) {
    this.#log = log;
  }

  /** Starts the threads, so that they are ready when they are needed, and keeps them until it is disposed. */
  use(): Disposable {
    this.#users++;
    clearTimeout(this.#idle);
    while (this.#threads.length < codingThreads) this.#threads.push(this.#start());
    let used = true;
    return {
      [Symbol.dispose]: () => {
        if (used && --this.#users === 0) this.#idle = setTimeout(() => this.#end(), idleMs).unref();
        used = false;
      },
    };
  }

  /** Gives a task to the thread that has the least to do. */
  async run<T extends Task>(task: T): Promise<Results[T["type"]]> {
    return await this.#ask(this.#idlest(), task);
  }

  /** For blocks that are coded one after the other, each in view of those before. It ends by being disposed. */
  openStream(): CodingStream {
    const thread = this.#idlest();
    const stream = ++this.#lastStream;
    const run = async <T extends EncodeTask | DecodeTask>(task: T): Promise<Results[T["type"]]> => {
      if (!this.#threads.includes(thread)) throw failed("the one that knew the stream has ended");
      return await this.#ask(thread, { ...task, stream });
    };
    // Where its thread has failed, what that knew is gone already.
    const close = () => {
      if (this.#threads.includes(thread))
        this.#ask(thread, { type: "close-stream", stream }).catch(() => undefined);
    };
    return { run, [Symbol.dispose]: close };
  }

  /** Gives a task to every thread. */
  async runOnAll(task: Task): Promise<void> {
    await Promise.all(this.#threads.map((thread) => this.#ask(thread, task)));
  }

  /** A number for a set of page files that is used by no other. */
  newPageSet(): number {
    return ++this.#lastPageSet;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const threads = this.#threads;
    clearTimeout(this.#idle);
    this.#end();
    await Promise.all(threads.map(({ worker }) => worker.terminate()));
  }

  #idlest(): Thread {
    const [thread] = [...this.#threads].sort((one, other) => one.pending.size - other.pending.size);
    if (!thread) throw failed("they do not run");
    return thread;
  }

  #ask<T extends Task>({ worker, pending }: Thread, task: T): Promise<Results[T["type"]]> {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      pending.set(id, { resolve: resolve as Pending["resolve"], reject });
      worker.postMessage({ id, task });
    });
  }

  #start(): Thread {
    const worker = startWorker(new URL(`./worker${extname(import.meta.url)}`, import.meta.url));
    const thread: Thread = { worker, pending: new Map() };
    worker.on("message", (answer: Answer) => {
      const waiting = thread.pending.get(answer.id);
      thread.pending.delete(answer.id);
      if ("result" in answer) waiting?.resolve(answer.result);
      else {
        const { code, message, cause, ...options } = answer.fault;
        const told = cause === "" ? options : { ...options, cause: new Error(cause) };
        waiting?.reject(new Fault(code, message, told));
      }
    });
    worker.on("error", (error) => this.#lost(thread, error));
    worker.on("exit", () => this.#lost(thread, undefined));
    worker.unref();
    return thread;
  }

  #end(): void {
    const threads = this.#threads;
    this.#threads = [];
    this.slabs.trim();
    for (const { worker } of threads) void worker.terminate();
  }

  /** What it was doing fails; the next user has a new thread. */
  #lost(thread: Thread, error: unknown): void {
    if (error !== undefined) this.#log.error("move.worker-failed", { error });
    this.#threads = this.#threads.filter((other) => other !== thread);
    for (const { reject } of thread.pending.values()) reject(failed("one ended", error));
    thread.pending.clear();
  }
}

/** They keep little of their own. */
const resourceLimits = { maxYoungGenerationSizeMb: 4 };

/** From source, the loader that runs TypeScript does not follow into threads by itself. */
function startWorker(url: URL): Worker {
  if (!url.href.endsWith(".ts")) return new Worker(url, { resourceLimits });
  const load = `import("tsx/esm/api").then(({ register }) => { register(); return import(${JSON.stringify(url.href)}); })`;
  return new Worker(load, { eval: true, resourceLimits });
}

function failed(how: string, cause?: unknown): Fault {
  return new Fault("internal", `the threads that code a move failed: ${how}`, {
    reason: "MOVE_WORKERS_FAILED",
    cause,
  });
}

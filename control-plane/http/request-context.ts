import type { Ctx, Principal, Trail } from "#kernel/ctx.ts";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import type { Trace } from "#kernel/trace.ts";

/** What the answer goes out on: a response, or the socket of an upgrade. */
export interface Outlet {
  readonly destroyed: boolean;
  once(event: "close", listener: () => void): unknown;
}

export const anonymous: Principal = {
  kind: "user",
  id: "anonymous",
  name: "anonymous",
  project: "",
  role: "viewer",
};

/**
 * The `Ctx` of one request. Its signal aborts when the client goes away, when the deadline passes and
 * when the server stops; it and the logger are made on first use, because most reads need neither.
 */
export class RequestContext implements Ctx {
  readonly requestId: string;
  readonly trace: Trace | undefined;
  readonly now: () => number;
  principal: Principal = anonymous;
  readonly trail: Trail;
  readonly #baseLog: Logger;
  readonly #outlet: Outlet;
  readonly #stopping: AbortSignal;
  #log: Logger | undefined;
  #controller: AbortController | undefined;
  #cancelled: Fault | undefined;

  constructor(from: {
    requestId: string;
    trace: Trace | undefined;
    /** Of the client. */
    address: string;
    now: () => number;
    log: Logger;
    outlet: Outlet;
    /** Aborts long streams when the server stops. */
    stopping: AbortSignal;
  }) {
    this.requestId = from.requestId;
    this.trace = from.trace;
    this.trail = { address: from.address, recorded: false };
    this.now = from.now;
    this.#baseLog = from.log;
    this.#outlet = from.outlet;
    this.#stopping = from.stopping;
  }

  get log(): Logger {
    const { requestId: request_id, trace } = this;
    return (this.#log ??= this.#baseLog.with({ request_id, ...(trace && { trace_id: trace.traceId }) }));
  }

  get signal(): AbortSignal {
    if (this.#controller) return this.#controller.signal;
    const controller = (this.#controller = new AbortController());
    if (this.#cancelled) controller.abort(this.#cancelled);
    else if (this.#outlet.destroyed) this.#closed();
    else {
      this.#outlet.once("close", () => this.#closed());
      if (this.#stopping.aborted) this.#stopped();
      else this.#stopping.addEventListener("abort", () => this.#stopped(), { signal: controller.signal });
    }
    return controller.signal;
  }

  /** Gives `work` so many milliseconds; after that its signal aborts and the caller hears `unavailable`. */
  within<T>(work: Promise<T>, deadlineMs: number): Promise<T> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        const fault = new Fault("unavailable", "the request took too long", { reason: "TIMEOUT" });
        this.#cancel(fault);
        reject(fault);
      }, deadlineMs);
      work.then(
        (value) => {
          clearTimeout(timer);
          resolve(value);
        },
        (error: unknown) => {
          clearTimeout(timer);
          reject(toFault(error));
        },
      );
    });
  }

  #closed(): void {
    // After a complete answer too: it ends the watches that this request began.
    this.#cancel(new Fault("unavailable", "the client went away", { reason: "CLIENT_GONE" }));
  }

  #stopped(): void {
    this.#cancel(new Fault("unavailable", "the server is stopping", { reason: "STOPPING" }));
  }

  #cancel(fault: Fault): void {
    this.#cancelled ??= fault;
    this.#controller?.abort(fault);
  }
}

/**
 * The agent's reports on their way: they go out in a call that the control plane makes and keeps open, one at a time,
 * each after the outcome of the one before. What is sent before that call has come waits for it.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import type {
  AttendRequest,
  AttendResponseSchema,
  ReportRequestSchema,
  ReportResponse,
  ReportService,
} from "#gen/skerry/control/v1/control_pb.js";
import { Fault, toFault } from "#kernel/fault.ts";
import { Waiters } from "../machines/waiters.ts";
import { readRefusal } from "./refusal.ts";

type Report = MessageInitShape<typeof ReportRequestSchema>;

interface Sending {
  readonly report: Report;
  readonly resolve: (answer: ReportResponse) => void;
  readonly reject: (fault: Fault) => void;
}

const longestWaitMs = 60_000;

export class ReportChannel {
  readonly #sending = new Set<Sending>();
  readonly #added = new Waiters();

  /** Resolves with the control plane's answer; throws its refusal, or why there will be none. */
  async send(report: Report, signal: AbortSignal): Promise<ReportResponse> {
    signal.throwIfAborted();
    let giveUp = (): void => undefined;
    const answer = new Promise<ReportResponse>((resolve, reject) => {
      const sending = { report, resolve, reject };
      giveUp = () => {
        this.#sending.delete(sending);
        reject(toFault(signal.reason));
      };
      signal.addEventListener("abort", giveUp, { once: true });
      this.#sending.add(sending);
      this.#added.release();
    });
    return answer.finally(() => signal.removeEventListener("abort", giveUp));
  }

  /** The connection is gone: nothing that was sent on it will be answered. */
  fail(fault: Fault): void {
    for (const { reject } of this.#sending) reject(fault);
    this.#sending.clear();
  }

  /** What the control plane calls. */
  service(): ServiceImpl<typeof ReportService> {
    return { attend: (outcomes, { signal }) => this.#attend(outcomes, signal) };
  }

  async *#attend(
    outcomes: AsyncIterable<AttendRequest>,
    signal: AbortSignal,
  ): AsyncGenerator<MessageInitShape<typeof AttendResponseSchema>> {
    const told = outcomes[Symbol.asyncIterator]();
    for (let next = await this.#next(signal); next; next = await this.#next(signal)) {
      yield { report: next.report };
      // The call failed: with its connection, mostly, and then that one's end says why.
      const outcome = await told.next().catch(() => undefined);
      if (!outcome || outcome.done) return;
      this.#sending.delete(next);
      settle(next, outcome.value);
    }
  }

  async #next(signal: AbortSignal): Promise<Sending | undefined> {
    while (!signal.aborted) {
      const [next] = this.#sending;
      if (next) return next;
      await this.#added.wait(longestWaitMs, signal);
    }
    return undefined;
  }
}

function settle({ resolve, reject }: Sending, { outcome }: AttendRequest): void {
  if (outcome.case === "accepted") return resolve(outcome.value);
  const refusal = outcome.case === "refused" && readRefusal(outcome.value);
  reject(refusal || new Fault("unavailable", "the report was not answered", { reason: "NOT_ANSWERED" }));
}

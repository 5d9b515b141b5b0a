/**
 * Serves `Pull` for all moves that leave this host. The destination may call before this host has been told of the
 * move: its call waits a little, because answering "try again" would cost each move the pause before the next try.
 */
import type { IncomingHttpHeaders, ServerHttp2Stream } from "node:http2";
import { Fault, toFault } from "#kernel/fault.ts";
import type { Logger } from "#kernel/log.ts";
import { pullPath } from "./protocol.ts";
import { PullCall } from "./pull-call.ts";
import type { MoveSource } from "./source.ts";
import type { Open } from "./wire.ts";

/** The moves that leave this host. */
export class MoveSources {
  readonly #sources = new Map<string, MoveSource>();
  readonly #waiting = new Set<WaitingCall>();

  /** Opens a move for calls, those included that wait for it. Disposing closes it for new ones. */
  add(source: MoveSource): Disposable {
    this.#sources.set(source.migrationId, source);
    for (const waiting of [...this.#waiting]) {
      if (waiting.migrationId === source.migrationId) waiting.found(source);
    }
    return {
      [Symbol.dispose]: () => {
        if (this.#sources.get(source.migrationId) === source) this.#sources.delete(source.migrationId);
      },
    };
  }

  /** Calls `found` now or when the move is added; `gaveUp` when that takes too long or too many wait. */
  find(migrationId: string, found: (source: MoveSource) => void, gaveUp: () => void): Disposable {
    const source = this.#sources.get(migrationId);
    if (source) found(source);
    else if (this.#waiting.size >= maxWaiting) gaveUp();
    else return this.#wait(migrationId, found, gaveUp);
    return { [Symbol.dispose]: () => undefined };
  }

  #wait(migrationId: string, found: (source: MoveSource) => void, gaveUp: () => void): Disposable {
    const forget = () => {
      clearTimeout(timer);
      this.#waiting.delete(waiting);
    };
    const waiting: WaitingCall = {
      migrationId,
      found: (source) => {
        forget();
        found(source);
      },
    };
    const timer = setTimeout(() => {
      forget();
      gaveUp();
    }, waitMs);
    this.#waiting.add(waiting);
    return { [Symbol.dispose]: forget };
  }
}

interface WaitingCall {
  readonly migrationId: string;
  readonly found: (source: MoveSource) => void;
}

const waitMs = 20_000;
/** Each host's certificate gets this far; more than any real number of moves to begin at once. */
const maxWaiting = 256;
/** Between the call and its first message. */
const openTimeoutMs = 10_000;

/** @param callerHostId from the caller's certificate, or from the control plane where it passes a call on */
export type PullHandler = (
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  callerHostId: string,
) => void;

/** True for a request that {@link createPullHandler} should have. */
export function isPull(headers: IncomingHttpHeaders): boolean {
  return headers[":path"] === pullPath && headers[":method"] === "POST";
}

export function createPullHandler({
  sources,
  log,
}: {
  readonly sources: MoveSources;
  readonly log: Logger;
}): PullHandler {
  return (stream, _headers, callerHostId) => {
    let waiting: Disposable | undefined;
    const refuse = (fault: Fault) => {
      log.warn("move.pull-refused", { callerHostId, fault });
      call.finish(fault);
    };
    const call = new PullCall(stream, (open: Open) => {
      clearTimeout(opening);
      const found = (source: MoveSource) => {
        try {
          source.pull(call, open, callerHostId);
        } catch (thrown) {
          refuse(toFault(thrown));
        }
      };
      waiting = sources.find(open.migrationId, found, () => refuse(unknown()));
    });
    const opening = setTimeout(() => {
      refuse(new Fault("invalid", "the call did not say what it wants", { reason: "PULL_SILENT" }));
    }, openTimeoutMs);
    stream.once("close", () => {
      clearTimeout(opening);
      waiting?.[Symbol.dispose]();
    });
  };
}

function unknown(): Fault {
  return new Fault("unavailable", "this host knows of no such move yet", { reason: "MOVE_UNKNOWN" });
}

/** What is known of one machine beyond the ledger, and the telling of it: each change once, in order. */
import { equals } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type Machine, MachineSchema, type MachineState } from "#gen/skerry/agent/v1/machine_pb.js";
import type { MoveStatus } from "#gen/skerry/agent/v1/migration_pb.js";
import type { DriverMachine } from "../drivers/driver.ts";
import type { ChangeFeed } from "./change-feed.ts";
import { isTombstone } from "./entry.ts";
import type { Ledger } from "./ledger.ts";
import { type Activity, toMachine } from "./machine-view.ts";

export interface MachineStatusDeps {
  readonly id: string;
  /** The driver's name. */
  readonly driver: string;
  readonly ledger: Ledger;
  readonly changes: ChangeFeed;
  readonly now: () => number;
  /** Least time between two reports of the progress of an image or a move. */
  readonly progressMs: number;
}

export class MachineStatus {
  /** What the driver found last; undefined when there is no such machine. */
  observed: DriverMachine | undefined;
  /** Of the move that it is in, or was in last. */
  move: MoveStatus | undefined;
  /** What is being done, where that says more than the driver's state. */
  activity: Activity | undefined;
  readonly #deps: MachineStatusDeps;
  #image = { done: 0n, total: 0n };
  #progressToldMs = 0;
  #told: Machine | undefined;

  constructor(deps: MachineStatusDeps) {
    this.#deps = deps;
  }

  get isRunning(): boolean {
    return this.observed !== undefined && this.observed.state !== "stopped";
  }

  /** The machine as last told; undefined when there is none. */
  get view(): Machine | undefined {
    return this.#told;
  }

  /** Says what is being done. */
  show(state: MachineState, reason = "", message = ""): void {
    this.activity = { state, reason, message };
    this.tell();
  }

  /** Nothing is being done any more: the driver's state is all there is to say. */
  settle(): void {
    this.activity = undefined;
    this.tell();
  }

  showImage(done: bigint, total: bigint): void {
    this.#image = { done, total };
    this.#tellProgress(done >= total);
  }

  /** How the move goes: told at once when its phase is another. */
  showMove(move: MoveStatus): void {
    this.move = move;
    this.#tellProgress(this.#told?.move?.phase !== move.phase);
  }

  #tellProgress(isNews: boolean): void {
    const now = this.#deps.now();
    if (!isNews && now - this.#progressToldMs < this.#deps.progressMs) return;
    this.#progressToldMs = now;
    this.tell();
  }

  /** The machine is gone; its removal is told with the sequence number that the ledger noted. */
  forget(): void {
    const { id, ledger, changes } = this.#deps;
    this.observed = this.activity = this.#told = this.move = undefined;
    this.#image = { done: 0n, total: 0n };
    const { gone, seq } = ledger.find(id)?.progress ?? {};
    if (gone && seq !== undefined) changes.publish({ removed: { id, seq, fence: gone.fence } });
  }

  /** Publishes the machine when it differs from what was told last. */
  tell(): void {
    const { id, ledger, driver, changes, now } = this.#deps;
    const entry = ledger.find(id);
    if (!entry || isTombstone(entry)) return;
    const { observed, activity, move } = this;
    const view = toMachine({ entry, observed, activity, move, driver, image: this.#image });
    if (this.#told) {
      const { seq, observedAt } = this.#told;
      if (equals(MachineSchema, Object.assign({ ...view }, { seq, observedAt }), this.#told)) return;
    }
    this.#told = Object.assign(view, { seq: ledger.nextSeq(id), observedAt: timestampFromMs(now()) });
    changes.publish({ changed: this.#told });
  }
}

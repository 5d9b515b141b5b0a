/**
 * What this host tells of one move: kept from its first command to the machine's end or the next move, and written to
 * the ledger, so that an agent that was killed goes on telling. The figures of all its lives are added up.
 */
import { clone, create } from "@bufbuild/protobuf";
import type { Fault } from "#kernel/fault.ts";
import {
  CodecChangeSchema,
  type Move,
  type MoveBytes,
  type MoveConvergence,
  MoveConvergenceSchema,
  MoveBytesSchema,
  MovePhase,
  MoveRole,
  type MoveStatus,
  MoveStatusSchema,
} from "#gen/skerry/agent/v1/migration_pb.js";
import type { Convergence, SendProgress } from "../drivers/driver.ts";
import type { MoveStats } from "../migration/stats.ts";

/** The key of `phase_ms`: the enum's own name, as people write it. */
function nameOf(phase: MovePhase): string {
  return MovePhase[phase].toLowerCase().replaceAll("_", "-");
}

const phaseOf: Readonly<Record<SendProgress["phase"], MovePhase>> = {
  "disk-copy": MovePhase.DISK_COPY,
  "pre-copy": MovePhase.PRE_COPY,
  converged: MovePhase.CONVERGED,
  switchover: MovePhase.SWITCHOVER,
  "post-copy": MovePhase.POST_COPY,
  "handed-over": MovePhase.HANDED_OVER,
};

const goesOn = { reason: "", message: "" };
const interrupted = {
  reason: "MOVE_INTERRUPTED",
  message: "the connection to the other host was lost and is being made again",
};

export class MoveJournal {
  readonly #now: () => number;
  /** As an earlier life of the agent left it. */
  readonly #before: MoveStatus;
  #status: MoveStatus;
  #since: number;

  /** @param before what is to be carried on */
  constructor(before: MoveStatus, now: () => number) {
    this.#now = now;
    this.#before = this.#status = before;
    this.#since = now();
  }

  static begin({ migrationId, role }: Move, now: () => number): MoveJournal {
    const phase = MovePhase.PREPARING;
    return new MoveJournal(create(MoveStatusSchema, { migrationId, role, phase }), now);
  }

  /** As it was last told; changed by nobody. */
  get status(): MoveStatus {
    return this.#status;
  }

  /** True when nothing is left to do here before the next word of the control plane. */
  get isOver(): boolean {
    return this.#status.phase === MovePhase.HANDED_OVER || this.#status.phase === MovePhase.FAILED;
  }

  /** The hypervisor may have connected before, perhaps for an earlier life of the agent. */
  get hasBegun(): boolean {
    const { phase, phaseMs } = this.#status;
    return [nameOf(phase), ...Object.keys(phaseMs)].some((name) => name !== nameOf(MovePhase.PREPARING));
  }

  isOf({ migrationId, role }: Move): boolean {
    return this.#status.migrationId === migrationId && this.#status.role === role;
  }

  enter(phase: MovePhase): void {
    this.#change(phase, {});
  }

  /** The destination has taken disks that were kept since this migration. */
  takes(baseline: string): void {
    this.#change(this.#status.phase, { baseline });
  }

  fail({ reason, message }: Pick<Fault, "reason" | "message">): void {
    this.#change(MovePhase.FAILED, { reason, message });
  }

  /** What the hypervisor says of how the machine leaves. */
  progress(progress: SendProgress, stats: MoveStats): void {
    const { phase, stoppedAtMs, stoppedMs } = progress;
    const figures = this.#figures(stats);
    const bytes = create(MoveBytesSchema, figures.bytes);
    if (bytes.memoryZero === 0n) bytes.memoryZero = wide(progress.zeroBytes);
    if (progress.diskKeptBytes !== undefined) bytes.diskKept = wide(progress.diskKeptBytes);
    this.#change(phaseOf[phase], {
      ...figures,
      bytes,
      ...(progress.convergence && { convergence: this.#converge(progress.convergence) }),
      ...(progress.interrupted !== undefined && (progress.interrupted ? interrupted : goesOn)),
      bytesTotal: wide(progress.bytesTotal) || this.#status.bytesTotal,
      bytesRemaining: wide(progress.bytesRemaining),
      dirtyRate: wide(progress.dirtyRate),
      throughput: wide(stats.throughput || progress.throughput),
      rounds: progress.rounds,
      predictedDowntimeMs: small(progress.predictedDowntimeMs),
      ...(stoppedAtMs !== undefined && { stoppedAtMs: wide(stoppedAtMs) }),
      ...(stoppedMs !== undefined && { stoppedMs: small(stoppedMs) }),
    });
  }

  /** What the destination sees of it. */
  traffic(stats: MoveStats): void {
    this.#change(this.#status.phase, this.#figures(stats));
  }

  /** The guest runs at the destination, so long after the command, and some of its memory is still to come. */
  runs(atMs: number, tookMs: number): void {
    this.#change(MovePhase.POST_COPY, { resumedAtMs: wide(atMs), resumedMs: small(tookMs) });
  }

  /** The guest runs at the destination, so long after the command. */
  resumed(atMs: number, tookMs: number): void {
    this.#change(MovePhase.HANDED_OVER, { resumedAtMs: wide(atMs), resumedMs: small(tookMs) });
  }

  #converge({ stalls, recoveries, ...now }: Convergence): MoveConvergence {
    const before = this.#status.convergence ?? create(MoveConvergenceSchema);
    return create(MoveConvergenceSchema, {
      stalls: before.stalls + stalls,
      recoveries: before.recoveries + recoveries,
      throttlePercent: Math.max(before.throttlePercent, now.throttlePercent),
      forced: before.forced || now.forced,
      postCopyBytes: wide(Math.max(Number(before.postCopyBytes), now.postCopyBytes)),
      pageRequests: wide(Math.max(Number(before.pageRequests), now.pageRequests)),
    });
  }

  #figures(stats: MoveStats) {
    const { cpuSeconds, bytes: earlier, codecHistory } = this.#before;
    const sum = (name: Exclude<keyof MoveStats["bytes"], symbol>) =>
      wide(stats.bytes[name]) + (earlier?.[name] ?? 0n);
    const bytes: Omit<MoveBytes, "$typeName" | "$unknown"> = {
      memoryRaw: sum("memoryRaw"),
      memoryZero: sum("memoryZero"),
      memoryInImage: sum("memoryInImage"),
      memoryWire: sum("memoryWire"),
      diskRaw: sum("diskRaw"),
      diskWire: sum("diskWire"),
      diskKept: this.#status.bytes?.diskKept ?? 0n,
    };
    const changes = stats.codecHistory.map(({ codec, atMs }) =>
      create(CodecChangeSchema, { codec, atMs: wide(atMs) }),
    );
    return {
      bytes: create(MoveBytesSchema, bytes),
      bytesSent: bytes.memoryWire + bytes.diskWire,
      throughput: wide(stats.throughput),
      codec: stats.codec,
      codecHistory: [...codecHistory, ...changes],
      pageStage: stats.pageStage,
      cpuSeconds: cpuSeconds + stats.cpuSeconds,
    };
  }

  /** The time since the last look belongs to the phase that it was in; a phase that nothing follows has no end. */
  #change(phase: MovePhase, change: Partial<MoveStatus>): void {
    const next = clone(MoveStatusSchema, this.#status);
    const now = this.#now();
    if (!this.isOver) {
      const name = nameOf(next.phase);
      next.phaseMs[name] = (next.phaseMs[name] ?? 0n) + wide(now - this.#since);
    }
    this.#since = now;
    this.#status = Object.assign(next, change, { phase });
  }
}

/** Whose part in a move ends with a command that knows of no move. */
export function isSource({ role }: { readonly role: MoveRole }): boolean {
  return role === MoveRole.SOURCE;
}

function wide(value: number): bigint {
  return BigInt(Math.max(0, Math.round(value)));
}

function small(value: number): number {
  return Math.min(0xffffffff, Math.max(0, Math.round(value)));
}

import { MovePhase, MoveRole, type MoveStatus } from "#gen/skerry/agent/v1/migration_pb.js";

const phases = {
  [MovePhase.UNSPECIFIED]: "preparing",
  [MovePhase.PREPARING]: "preparing",
  [MovePhase.READY]: "ready",
  [MovePhase.DISK_COPY]: "disk-copy",
  [MovePhase.PRE_COPY]: "pre-copy",
  [MovePhase.CONVERGED]: "converged",
  [MovePhase.SWITCHOVER]: "switchover",
  [MovePhase.POST_COPY]: "post-copy",
  [MovePhase.HANDED_OVER]: "handed-over",
  [MovePhase.FAILED]: "failed",
} as const satisfies Record<MovePhase, string>;

export type MoveObservation = ReturnType<typeof toMoveObservation>;

/** What a host says of its part in a move, in the form in which it is stored with the incarnation. */
export function toMoveObservation(move: MoveStatus) {
  return {
    migration_id: move.migrationId,
    role: move.role === MoveRole.SOURCE ? ("source" as const) : ("destination" as const),
    phase: phases[move.phase],
    baseline: move.baseline,
    reason: move.reason,
    message: move.message,
    bytes_total: Number(move.bytesTotal),
    bytes_remaining: Number(move.bytesRemaining),
    bytes_sent: Number(move.bytesSent),
    dirty_rate: Number(move.dirtyRate),
    throughput: Number(move.throughput),
    predicted_downtime_ms: move.predictedDowntimeMs,
    rounds: move.rounds,
    codec: move.codec,
    page_stage: move.pageStage,
    bytes: {
      memory_raw: Number(move.bytes?.memoryRaw ?? 0n),
      memory_zero: Number(move.bytes?.memoryZero ?? 0n),
      memory_in_image: Number(move.bytes?.memoryInImage ?? 0n),
      memory_wire: Number(move.bytes?.memoryWire ?? 0n),
      disk_raw: Number(move.bytes?.diskRaw ?? 0n),
      disk_wire: Number(move.bytes?.diskWire ?? 0n),
      disk_kept: Number(move.bytes?.diskKept ?? 0n),
    },
    phase_ms: Object.fromEntries(Object.entries(move.phaseMs).map(([name, ms]) => [name, Number(ms)])),
    codec_history: move.codecHistory.map(({ codec, atMs }) => ({ codec, at_ms: Number(atMs) })),
    cpu_seconds: move.cpuSeconds,
    stopped_ms: move.stoppedMs,
    resumed_ms: move.resumedMs,
    stopped_at_ms: Number(move.stoppedAtMs),
    resumed_at_ms: Number(move.resumedAtMs),
    convergence: {
      stalls: move.convergence?.stalls ?? 0,
      throttle_percent: move.convergence?.throttlePercent ?? 0,
      forced: move.convergence?.forced ?? false,
      post_copy_bytes: Number(move.convergence?.postCopyBytes ?? 0n),
      page_requests: Number(move.convergence?.pageRequests ?? 0n),
      recoveries: move.convergence?.recoveries ?? 0,
    },
  };
}

/**
 * The control plane's way to an agent, whatever carries it. Calls to a host that is not connected to
 * this replica throw `unavailable` with reason HOST_NOT_CONNECTED; so does a call cut off on the way,
 * and then nothing is known of its outcome.
 */
import type { AdoptionEnd, Fence, Machine, MachineSpec } from "#gen/skerry/agent/v1/machine_pb.js";
import type { ReadLogResponse } from "#gen/skerry/agent/v1/console_pb.js";
import type { ProbeHostResponse } from "#gen/skerry/agent/v1/host_pb.js";
import type { ReadWorkloadLogResponse } from "#gen/skerry/agent/v1/workload_pb.js";
import type { Ctx } from "#kernel/ctx.ts";
import type { HostMetrics, MachineMetrics } from "#gen/skerry/agent/v1/metrics_pb.js";

/** On whose behalf a call is made: the agent logs it. */
export type CallTrail = Pick<Ctx, "requestId" | "trace">;

export type PlainFence = Omit<Fence, "$typeName" | "$unknown">;

/** For so long a host keeps the disks of what has moved away: a move back within that carries only what was written meanwhile. */
export const keepDisksSeconds = 3_600;

export interface CapturedFile {
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly format: string;
}

export interface AgentPort {
  /** Ids of the hosts whose connection this replica holds. */
  connected(): readonly string[];
  /** Calls back when a host connects to or leaves this replica. */
  onChange(listener: (hostId: string, connected: boolean) => void): Disposable;
  ensureMachine(
    hostId: string,
    request: { id: string; fence: PlainFence; spec: MachineSpec; waitMs: number },
    signal: AbortSignal,
  ): Promise<Machine>;
  /** True when it is gone; false when removal goes on and a report will follow. */
  removeMachine(
    hostId: string,
    request: {
      id: string;
      fence: PlainFence;
      waitMs: number;
      keepDisksSeconds?: number;
      adoptionEnd?: AdoptionEnd;
    },
    signal: AbortSignal,
  ): Promise<boolean>;
  /** Has a host look at another. */
  probeHost(
    hostId: string,
    request: { hostId: string; address: string; limitMs: number },
    signal: AbortSignal,
  ): Promise<ProbeHostResponse>;
  machineMetrics(hostId: string, machineId: string, signal: AbortSignal): Promise<MachineMetrics>;
  hostMetrics(hostId: string, signal: AbortSignal): Promise<HostMetrics>;
  readConsoleLog(
    hostId: string,
    request: { machineId: string; offset: bigint; limit: number },
    signal: AbortSignal,
    trail?: CallTrail,
  ): Promise<ReadLogResponse>;
  /**
   * Has the host make an image file of a machine's disk as it is now: yields how far it is, at the end with the file,
   * which is then in the host's cache.
   */
  captureDisk(
    hostId: string,
    machineId: string,
    signal: AbortSignal,
  ): AsyncIterable<{ readonly done: number; readonly total: number; readonly file?: CapturedFile }>;
  /** The bytes of a file in the host's cache. */
  readImageFile(hostId: string, sha256: string, signal: AbortSignal): AsyncIterable<Uint8Array>;
  /** The last lines that a container printed. */
  readWorkloadLog(
    hostId: string,
    request: { workloadId: string; lines: number },
    signal: AbortSignal,
    trail?: CallTrail,
  ): Promise<ReadWorkloadLogResponse>;
  /** Joins a serial console: yields output with the offset after it, sends what `input` yields. */
  attachConsole(
    hostId: string,
    request: { machineId: string; offset: bigint },
    input: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
    trail?: CallTrail,
  ): AsyncIterable<{ output: Uint8Array; offset: bigint }>;
}

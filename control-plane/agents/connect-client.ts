import { create } from "@bufbuild/protobuf";
import type { CallOptions } from "@connectrpc/connect";
import { AttachRequestSchema, type AttachRequest } from "#gen/skerry/agent/v1/console_pb.js";
import { Fault } from "#kernel/fault.ts";
import { trailHeaders } from "#kernel/trace.ts";
import type { Authority } from "./authority.ts";
import type { AgentClients, Connections } from "./connections.ts";
import { fromConnectError } from "./faults.ts";
import type { AgentPort, CallTrail } from "./port.ts";

const cutOff = "HOST_NOT_CONNECTED";

export interface AgentPortOptions {
  readonly connections: Connections;
  readonly authority: Pick<Authority, "issueLeaseTicket">;
  /** What a call may take beyond the time that the agent was asked to wait. */
  readonly marginMs?: number;
}

/** The port over the connections that this replica holds. */
export function createAgentPort({ connections, authority, marginMs = 10_000 }: AgentPortOptions): AgentPort {
  const call = async <T>(
    hostId: string,
    signal: AbortSignal,
    waitMs: number,
    work: (clients: AgentClients, options: CallOptions) => Promise<T>,
  ): Promise<T> => {
    try {
      return await work(connections.clientsOf(hostId), { signal, timeoutMs: waitMs + marginMs });
    } catch (thrown) {
      throw toFault(thrown, signal);
    }
  };

  return {
    connected: () => connections.connected(),
    onChange: (listener) => connections.onChange(listener),

    ensureMachine: (hostId, request, signal) =>
      call(hostId, signal, request.waitMs, async ({ machines }, options) =>
        present((await machines.ensureMachine(request, options)).machine),
      ),
    removeMachine: (hostId, request, signal) =>
      call(
        hostId,
        signal,
        request.waitMs,
        async ({ machines }, options) => (await machines.removeMachine(request, options)).removed,
      ),
    probeHost: (hostId, request, signal) =>
      call(hostId, signal, request.limitMs, ({ host }, options) => {
        const ticket = authority.issueLeaseTicket(request.hostId);
        return host.probeHost({ ...request, ticket }, options);
      }),
    machineMetrics: (hostId, machineId, signal) =>
      call(hostId, signal, 0, async ({ metrics }, options) =>
        present((await metrics.getMachineMetrics({ machineId }, options)).metrics),
      ),
    hostMetrics: (hostId, signal) =>
      call(hostId, signal, 0, async ({ metrics }, options) =>
        present((await metrics.getHostMetrics({}, options)).metrics),
      ),
    readConsoleLog: (hostId, request, signal, trail) =>
      call(hostId, signal, 0, ({ console }, options) =>
        console.readLog(request, { ...options, ...headersOf(trail) }),
      ),

    async *captureDisk(hostId, machineId, signal) {
      try {
        const { images } = connections.clientsOf(hostId);
        for await (const { bytesDone, bytesTotal, file } of images.captureDisk({ machineId }, { signal })) {
          const captured = file && { ...file, sizeBytes: Number(file.sizeBytes) };
          yield { done: Number(bytesDone), total: Number(bytesTotal), ...(captured && { file: captured }) };
        }
      } catch (thrown) {
        throw toFault(thrown, signal);
      }
    },
    async *readImageFile(hostId, sha256, signal) {
      try {
        const { images } = connections.clientsOf(hostId);
        for await (const { data } of images.readImageFile({ sha256 }, { signal })) yield data;
      } catch (thrown) {
        throw toFault(thrown, signal);
      }
    },

    readWorkloadLog: (hostId, request, signal, trail) =>
      call(hostId, signal, 0, ({ workloads }, options) =>
        workloads.readWorkloadLog(request, { ...options, ...headersOf(trail) }),
      ),

    async *attachConsole(hostId, request, input, signal, trail) {
      try {
        const { console } = connections.clientsOf(hostId);
        const options = { signal, ...headersOf(trail) };
        for await (const { output, offset } of console.attach(attachRequests(request, input), options)) {
          yield { output, offset };
        }
      } catch (thrown) {
        throw toFault(thrown, signal);
      }
    },
  };
}

const headersOf = (trail: CallTrail | undefined): CallOptions =>
  trail ? { headers: trailHeaders(trail) } : {};

async function* attachRequests(
  open: { machineId: string; offset: bigint },
  input: AsyncIterable<Uint8Array>,
): AsyncIterable<AttachRequest> {
  yield create(AttachRequestSchema, { message: { case: "open", value: open } });
  for await (const value of input) yield create(AttachRequestSchema, { message: { case: "input", value } });
}

function toFault(thrown: unknown, signal: AbortSignal): Fault {
  if (!signal.aborted) return fromConnectError(thrown, cutOff);
  const reason: unknown = signal.reason;
  if (reason instanceof Fault) return reason;
  return new Fault("unavailable", "the call was cancelled", { reason: "CANCELLED", cause: thrown });
}

function present<T>(value: T | undefined): T {
  if (value === undefined) throw new Fault("internal", "the agent's answer is incomplete");
  return value;
}

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import type {
  GetLeaseResponseSchema,
  HostFacts,
  HostLabels,
  HostService,
  ProbeHostResponseSchema,
} from "#gen/skerry/agent/v1/host_pb.js";
import { Fault } from "#kernel/fault.ts";
import { peerNamePattern } from "#kernel/peer.ts";
import { deadline } from "#kernel/retry.ts";
import { requireControlPlane, requireOperator } from "./caller.ts";

export interface HostServiceDeps {
  hostId(): string;
  readonly name: string;
  readonly labels: HostLabels;
  readonly facts: HostFacts;
  lease(): MessageInitShape<typeof GetLeaseResponseSchema>;
  /** Whether the control plane gave another host leave to ask this one about its lease. */
  admitsTicket(ticket: string): boolean;
  /** Looks at another host; the signal is the limit. */
  probe(
    target: { readonly hostId: string; readonly address: string; readonly ticket: string },
    signal: AbortSignal,
  ): Promise<MessageInitShape<typeof ProbeHostResponseSchema>>;
}

const longestProbeMs = 10_000;

/** What this host is. Another host is told of its lease only, and only with the control plane's leave: a ticket. */
export function hostService(deps: HostServiceDeps): ServiceImpl<typeof HostService> {
  const { name, labels, facts } = deps;
  return {
    getHost(_request, context) {
      requireOperator(context);
      return { hostId: deps.hostId(), name, labels, facts };
    },

    getLease({ ticket }, context) {
      if (!deps.admitsTicket(ticket)) requireOperator(context);
      return deps.lease();
    },

    async probeHost({ hostId, address, limitMs, ticket }, context) {
      requireControlPlane(context);
      if (!peerNamePattern.test(hostId)) {
        throw new Fault("invalid", "host_id must be a host's id", { reason: "COMMAND_INVALID" });
      }
      using limit = deadline(Math.min(limitMs, longestProbeMs), "looking at the host", context.signal);
      return await deps.probe({ hostId, address, ticket }, limit);
    },
  };
}

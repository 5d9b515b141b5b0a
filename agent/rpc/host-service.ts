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
  /** Looks at another host; the signal is the limit. */
  probe(
    hostId: string,
    address: string,
    signal: AbortSignal,
  ): Promise<MessageInitShape<typeof ProbeHostResponseSchema>>;
}

const longestProbeMs = 10_000;

/** What this host is. Other hosts are told of its lease only, for whom one of them is asked to look. */
export function hostService(deps: HostServiceDeps): ServiceImpl<typeof HostService> {
  const { name, labels, facts } = deps;
  return {
    getHost(_request, context) {
      requireOperator(context);
      return { hostId: deps.hostId(), name, labels, facts };
    },

    getLease: () => deps.lease(),

    async probeHost({ hostId, address, limitMs }, context) {
      requireControlPlane(context);
      if (!peerNamePattern.test(hostId)) {
        throw new Fault("invalid", "host_id must be a host's id", { reason: "COMMAND_INVALID" });
      }
      using limit = deadline(Math.min(limitMs, longestProbeMs), "looking at the host", context.signal);
      return await deps.probe(hostId, address, limit);
    },
  };
}

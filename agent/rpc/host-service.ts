import type { ServiceImpl } from "@connectrpc/connect";
import type { HostFacts, HostLabels, HostService } from "#gen/skerry/agent/v1/host_pb.js";

export interface HostServiceDeps {
  hostId(): string;
  readonly name: string;
  readonly labels: HostLabels;
  readonly facts: HostFacts;
}

/** What this host is; other hosts may ask too, since they decide by it whether they can exchange machines. */
export function hostService(deps: HostServiceDeps): ServiceImpl<typeof HostService> {
  const { name, labels, facts } = deps;
  return { getHost: () => ({ hostId: deps.hostId(), name, labels, facts }) };
}

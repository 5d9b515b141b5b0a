/** Those of a group that are to share a host, and those that are to be on different ones. */
import type { Filter } from "../policy.ts";

/** It comes first: how other hosts are is then no matter. */
export const together: Filter = {
  scope: "host",
  code: "together",
  verdict: "without its group",
  fit({ together: hosts }) {
    if (hosts === undefined || hosts.length === 0) return undefined;
    return {
      miss: (host) => (hosts.includes(host.id) ? 0 : 1),
      reason: () => "the group that it is to share a host with is elsewhere",
    };
  },
};

export const apart: Filter = {
  scope: "host",
  code: "apart",
  verdict: "with one of its group",
  fit({ apart: hosts }) {
    if (hosts === undefined || hosts.length === 0) return undefined;
    const taken = new Set(hosts);
    return {
      miss: (host) => (taken.has(host.id) ? 1 : 0),
      reason: () => "another of its group is there",
    };
  },
};

import type { Filter } from "../policy.ts";

/** Hosts that the caller rules out by id. */
export const excluded: Filter = {
  scope: "host",
  code: "excluded",
  verdict: "excluded",
  fit({ exclude }) {
    if (exclude === undefined || exclude.size === 0) return undefined;
    return {
      miss: (host) => (exclude.has(host.id) ? 1 : 0),
      reason: () => "excluded",
    };
  },
};

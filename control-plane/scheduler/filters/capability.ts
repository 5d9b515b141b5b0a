import type { Filter } from "../policy.ts";

/** An ability that not every driver has. */
export const capability: Filter = {
  scope: "labels",
  code: "capability",
  verdict: "unable to do it",
  fit({ capability: wanted }) {
    if (wanted === undefined) return undefined;
    return {
      miss: (host) => (host.capabilities.includes(wanted) ? 0 : 1),
      reason: () => `its driver has no ${wanted}`,
    };
  },
};

import type { Filter } from "../policy.ts";

/** The architecture that was asked for, when one was. */
export const architecture: Filter = {
  scope: "labels",
  code: "architecture",
  verdict: "of another architecture",
  fit({ architecture: wanted }) {
    if (wanted === undefined) return undefined;
    return {
      miss: (host) => (host.architecture === wanted ? 0 : 1),
      reason: (host) => `${host.architecture}, not ${wanted}`,
    };
  },
};

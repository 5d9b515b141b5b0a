import type { Filter } from "../policy.ts";

/** The region that was asked for, when one was. */
export const region: Filter = {
  scope: "labels",
  code: "region",
  verdict: "in another region",
  fit({ region: wanted }) {
    if (wanted === undefined) return undefined;
    return {
      miss: (host) => (host.region === wanted ? 0 : 1),
      reason: (host) => `${host.region}, not ${wanted}`,
    };
  },
};

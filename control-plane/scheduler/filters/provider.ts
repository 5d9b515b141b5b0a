import type { Filter } from "../policy.ts";

/** The provider that was asked for, when one was. */
export const provider: Filter = {
  scope: "labels",
  code: "provider",
  verdict: "of another provider",
  fit({ provider: wanted }) {
    if (wanted === undefined) return undefined;
    return {
      miss: (host) => (host.provider === wanted ? 0 : 1),
      reason: (host) => `${host.provider}, not ${wanted}`,
    };
  },
};

import type { Filter } from "../policy.ts";

/** The very host that was asked for, when one was. It comes first: how the others are is then no matter. */
export const host: Filter = {
  scope: "host",
  code: "host",
  verdict: "not the one asked for",
  fit({ host: wanted }) {
    if (wanted === undefined) return undefined;
    return {
      miss: (host) => (host.id === wanted ? 0 : 1),
      reason: () => "another host was asked for",
    };
  },
};

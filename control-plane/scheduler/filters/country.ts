import type { Filter } from "../policy.ts";

/** One of the countries that were asked for: what the law or a contract wants. */
export const country: Filter = {
  scope: "labels",
  code: "country",
  verdict: "in another country",
  fit({ countries }) {
    if (countries === undefined || countries.length === 0) return undefined;
    return {
      miss: (host) => (host.country !== undefined && countries.includes(host.country) ? 0 : 1),
      reason: (host) => `${host.country || "country unknown"}, not ${countries.join(" or ")}`,
    };
  },
};

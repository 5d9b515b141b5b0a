import type { Filter } from "../policy.ts";

/** Its owner has asked for no new instances. */
export const cordoned: Filter = {
  scope: "labels",
  code: "cordoned",
  verdict: "cordoned",
  fit: () => ({
    miss: (host) => (host.cordoned ? 1 : 0),
    reason: () => "cordoned",
  }),
};

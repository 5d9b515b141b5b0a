import type { Filter } from "../policy.ts";

/** A host whose agent cannot be reached cannot be told to start anything. */
export const online: Filter = {
  scope: "labels",
  code: "offline",
  verdict: "offline",
  fit: () => ({
    miss: (host) => (host.online ? 0 : 1),
    reason: () => "offline",
  }),
};

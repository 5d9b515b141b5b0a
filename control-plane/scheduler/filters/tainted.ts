import type { Filter } from "../policy.ts";

/** Hosts that are kept for those who say that they put up with it. */
export const tainted: Filter = {
  scope: "labels",
  code: "tainted",
  verdict: "kept for others",
  fit({ tolerations = [] }) {
    const missing = (taints: readonly string[] = []) =>
      taints.filter((taint) => !tolerations.includes(taint));
    return {
      miss: ({ taints }) => missing(taints).length,
      reason: ({ taints }) => `does not tolerate ${missing(taints).join(", ")}`,
    };
  },
};

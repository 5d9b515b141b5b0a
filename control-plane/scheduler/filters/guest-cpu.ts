import type { Filter } from "../policy.ts";

/** A running guest keeps the CPU that it was started with. */
export const guestCpu: Filter = {
  scope: "labels",
  code: "guest_cpu",
  verdict: "with another guest CPU",
  fit({ guestCpuModel: wanted }) {
    if (wanted === undefined) return undefined;
    return {
      miss: (host) => (host.guestCpuModel === wanted ? 0 : 1),
      reason: (host) =>
        `guests get ${host.guestCpuModel || "an unknown CPU"}, not ${wanted || "one unknown"}`,
    };
  },
};

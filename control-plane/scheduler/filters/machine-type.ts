import type { Filter } from "../policy.ts";

/** A running guest keeps its machine, so its new host must know that type. */
export const machineType: Filter = {
  scope: "labels",
  code: "machine_type",
  verdict: "without the machine type",
  fit({ machineType: wanted }) {
    if (wanted === undefined) return undefined;
    return {
      miss: (host) => (host.machineTypes.includes(wanted) ? 0 : 1),
      reason: (host) => `has ${host.machineTypes[0] ?? "none"}, not ${wanted}`,
    };
  },
};

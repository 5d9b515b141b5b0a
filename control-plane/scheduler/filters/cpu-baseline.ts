import type { Filter } from "../policy.ts";

/** Each line from old to new: a CPU runs what was built for itself and for those before it. */
const lines: readonly (readonly string[])[] = [
  ["x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"],
  ["armv8", "armv9"],
];

/** A CPU at least as new as the one asked for. A baseline that is in no line satisfies only itself. */
export const cpuBaseline: Filter = {
  scope: "labels",
  code: "cpu_baseline",
  verdict: "without the CPU baseline",
  fit({ cpuBaseline: wanted }) {
    if (wanted === undefined) return undefined;
    const line = lines.find((names) => names.includes(wanted)) ?? [wanted];
    const needed = line.indexOf(wanted);
    return {
      miss(host) {
        const has = line.indexOf(host.cpuBaseline);
        return has === -1 ? Infinity : Math.max(0, needed - has);
      },
      reason: (host) => `${host.cpuBaseline || "unknown"}, not ${wanted}`,
    };
  },
};

/**
 * Which CPU a guest may count on, as the x86-64 psABI names it. A guest that was started on one host can
 * only move to hosts of the same or a higher baseline, so the lowest that is sure is the right answer.
 */
const levels: readonly (readonly [string, readonly string[]])[] = [
  ["x86-64-v2", ["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"]],
  ["x86-64-v3", ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]],
  ["x86-64-v4", ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]],
];

/**
 * @param architecture as `uname -m` says
 * @param cpuinfo the text of /proc/cpuinfo
 */
export function deriveCpuBaseline(architecture: string, cpuinfo: string): string {
  if (architecture === "aarch64") return "armv8";
  if (architecture !== "x86_64") return architecture;
  // CPUs of one host may differ; what only some can do does not count.
  const lists = [...cpuinfo.matchAll(/^flags\s*:(.*)$/gm)].map(
    ([, flags = ""]) => new Set(flags.split(/\s+/)),
  );
  let baseline = "x86-64-v1";
  if (lists.length === 0) return baseline;
  for (const [level, flags] of levels) {
    if (!flags.every((flag) => lists.every((list) => list.has(flag)))) break;
    baseline = level;
  }
  return baseline;
}

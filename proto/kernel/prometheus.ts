/** Prometheus' text format. Names and labels are ours, and need no escaping. */
export type Sample = readonly [labels: string, value: number];

/** One metric with its samples, as lines. */
export function family(
  name: string,
  type: "gauge" | "counter",
  help: string,
  samples: readonly Sample[],
): string[] {
  return [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...samples.map(([labels, value]) => `${name}${labels} ${String(value)}`),
  ];
}

/** CPU and memory of this process, under the names that everybody uses. */
export function processFamilies(): string[] {
  const { user, system } = process.cpuUsage();
  return [
    ...family("process_cpu_seconds_total", "counter", "Of this process.", [["", (user + system) / 1e6]]),
    ...family("process_resident_memory_bytes", "gauge", "Of this process.", [
      ["", process.memoryUsage.rss()],
    ]),
  ];
}

export const prometheusType = "text/plain; version=0.0.4; charset=utf-8";

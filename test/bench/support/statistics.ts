/** The value below which the share `p` (0 to 1) of the samples lies, by the nearest rank. */
export function percentile(samples: readonly number[], p: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const value = sorted[Math.max(0, Math.ceil(p * sorted.length) - 1)];
  if (value === undefined) throw new RangeError("there are no samples");
  return value;
}

export const median = (samples: readonly number[]): number => percentile(samples, 0.5);

/** Two digits after the point: what is measured here is not known better. */
export const round = (value: number): number => Math.round(value * 100) / 100;

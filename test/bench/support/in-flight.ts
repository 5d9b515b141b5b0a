/** Runs `count` pieces of work, `parallel` at a time, and gives how long each took in milliseconds. */
export async function timeInFlight(
  count: number,
  parallel: number,
  work: (index: number) => Promise<void>,
): Promise<number[]> {
  const durations: number[] = [];
  let next = 0;
  const lane = async () => {
    while (next < count) {
      const index = next++;
      const started = performance.now();
      await work(index);
      durations.push(performance.now() - started);
    }
  };
  await Promise.all(Array.from({ length: Math.min(parallel, count) }, lane));
  return durations;
}

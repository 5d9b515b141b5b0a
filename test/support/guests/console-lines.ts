/** What every guest of the benchmarks and tests says on its console, so that it can be followed from outside. */

/** Once, when it has done what it does before it is measured. */
export const readyLine = "guest-ready";

/** For a shell: counts aloud, once a second, for ever. */
export const tickLoop = `n=0; while sleep 1; do n=$((n+1)); echo "tick $n"; done`;

/** The last number that the guest has counted to; undefined when it has not begun. */
export function lastTick(consoleLog: string): number | undefined {
  const last = [...consoleLog.matchAll(/^tick (\d+)\r?\n/gm)].at(-1);
  return last?.[1] === undefined ? undefined : Number(last[1]);
}

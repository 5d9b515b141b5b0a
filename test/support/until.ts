import { deadline, sleep } from "#kernel/retry.ts";

/**
 * Waits for a condition instead of for a time; fails when it does not come true within the limit.
 * @param everyMs between two looks, for those that cost the one that is looked at
 */
export async function until(
  holds: () => boolean | Promise<boolean>,
  limitMs = 5000,
  everyMs = 2,
): Promise<void> {
  using limit = deadline(limitMs, `the condition ${String(holds)}`);
  while (!(await holds())) await sleep(everyMs, limit);
}

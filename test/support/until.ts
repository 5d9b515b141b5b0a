import { deadline, sleep } from "#kernel/retry.ts";

/**
 * Waits for a condition instead of for a time; fails when it does not come true within the limit. A condition that
 * is a promise asks somebody, mostly the database, and is looked at less often: the one who is asked works as well.
 *
 * @param everyMs between two looks
 */
export async function until(
  holds: () => boolean | Promise<boolean>,
  limitMs = 60_000,
  everyMs?: number,
): Promise<void> {
  using limit = deadline(limitMs, `the condition ${String(holds)}`);
  for (;;) {
    const answer = holds();
    if (await answer) return;
    await sleep(everyMs ?? (answer instanceof Promise ? 20 : 2), limit);
  }
}

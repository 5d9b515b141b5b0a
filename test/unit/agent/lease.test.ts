/** How long machines with lease terms may run: counted since boot, kept over restarts, and no longer than that. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { Lease } from "#agent/control/lease.ts";
import { silentLogger } from "#kernel/log.ts";

const world = (directory: string) => {
  const clock = { ms: 1_000_000 };
  const open = (bootId = "this-boot") =>
    Lease.open({ directory, bootId, log: silentLogger, sinceBootMs: () => clock.ms });
  return { clock, open };
};

t.test("it counts from when the report was sent", async (t) => {
  const { clock, open } = world(t.testdir({}));
  const lease = await open();
  t.notOk(lease.holds, "there is none before the first answer");
  const changes: boolean[] = [];
  using _changes = lease.onChange(() => changes.push(lease.holds));
  const sentAtMs = lease.now();
  clock.ms += 900;
  lease.renew(sentAtMs, 1_000);
  t.ok(lease.holds);
  clock.ms += 99;
  t.ok(lease.holds);
  clock.ms += 1;
  t.notOk(lease.holds, "not from when it was answered");
  lease.renew(clock.ms, 0);
  t.notOk(lease.holds, "an answer without a lease gives none");
  lease.renew(clock.ms - 5_000, 1_000);
  t.notOk(lease.holds, "an answer that comes too late gives none");
  t.same(changes, [true]);
});

t.test("an answer that was overtaken takes nothing away", async (t) => {
  const { clock, open } = world(t.testdir({}));
  const lease = await open();
  lease.renew(clock.ms, 10_000);
  lease.renew(clock.ms - 3_000, 10_000);
  clock.ms += 9_000;
  t.ok(lease.holds);
});

t.test("an agent that is started anew goes on where it was, and after a reboot there is none", async (t) => {
  const directory = t.testdir({});
  const { clock, open } = world(directory);
  const stop = new AbortController();
  const first = await open();
  const running = first.run(stop.signal);
  first.renew(clock.ms, 10_000);
  stop.abort();
  await running; // what is being written is waited for
  clock.ms += 4_000;
  const second = await open();
  t.ok(second.holds);
  t.notOk((await open("another-boot")).holds);
  clock.ms += 6_000;
  t.notOk(second.holds, "no longer than it was");
  await writeFile(join(directory, "lease"), '{"bootId":"this-');
  t.notOk((await open()).holds, "half a file is none");
});

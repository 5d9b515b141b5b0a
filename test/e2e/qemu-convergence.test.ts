import t from "tap";
import type { SendProgress } from "#agent/drivers/driver.ts";
import { type Move, MoveRole, MoveType, OnUnreachable } from "#gen/skerry/agent/v1/migration_pb.js";
import { deadline } from "#kernel/retry.ts";
import { GuestShell } from "#test/support/guest-shell.ts";
import { makeWorld } from "#test/support/move-world.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

// A guest that writes to a MiB again and again, and a link that does not carry what it dirties by that in the time allowed.

const MiB = 1024n ** 2n;
const linkBytesPerSecond = 2 * 1024 * 1024;
const maxDowntimeMs = 100;
/** QEMU stops the guest as soon as the rest would take no longer than allowed at the speed so far. */
const quickBytesPerSecond = 30e6;
const writing =
  "(while true; do dd if=/work/seed of=/work/copy bs=1M conv=notrunc 2>/dev/null; done) & " +
  "i=0; while true; do echo count-$i; i=$((i+1)); usleep 20000; done\n";

await t.test("a guest that writes faster than the link carries", async (t) => {
  await using world = await makeWorld("vm-writes", { memoryBytes: 128n * MiB });
  using signal = deadline(240_000, "moving a guest that writes");
  const { source, destination, id } = world;
  const live = () => destination.driver.liveMigration!;
  await source.driver.ensure(source.plan, signal);
  const shell = await GuestShell.open(source.driver, source.plan, signal);
  await shell.run("mkdir /work; dd if=/dev/urandom of=/work/seed bs=1M count=1");
  const sum = await shell.run("md5sum < /work/seed");
  shell.type(writing);
  /** What does not change goes quickly, so that what takes time is the struggle. */
  let quickBytes = Infinity;
  let bytesPerSecond = linkBytesPerSecond;
  world.rateOf = (channel) => {
    if (channel !== "memory" || quickBytes === Infinity) return Infinity;
    return (world.sent.get(channel) ?? 0) > quickBytes ? bytesPerSecond : quickBytesPerSecond;
  };
  const move = async (change: Partial<Move>, seen: (now: SendProgress) => boolean = () => true) => {
    const begun = performance.now();
    const told: SendProgress[] = [];
    const reason = await reasonOf(
      world.move({ maxDowntimeMs, ...change }, signal, (now) => told.push(now) > 0 && seen(now)),
    );
    const last = told.at(-1)!;
    const stalls = told.reduce((sum, { convergence }) => sum + (convergence?.stalls ?? 0), 0);
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    t.comment(
      `${String(change.migrationId)} ${seconds} s, ${String(stalls)} stalls: ${JSON.stringify(last)}`,
    );
    return { reason, last, stalls, dirtyRate: Math.max(...told.map(({ dirtyRate }) => dirtyRate)) };
  };
  const turnBack = async () => {
    t.equal((await source.driver.ensure(source.plan, signal)).state, "running");
    await destination.driver.remove(id, destination.directory, signal);
  };

  const quick = await move({ migrationId: "quick", maxDowntimeMs: 4 * maxDowntimeMs });
  // A busy machine may ask for more of what is allowed than at first, which counts as a stall; it needs no other way.
  const unforced = { phase: "handed-over", convergence: { forced: false, throttlePercent: 0 } };
  t.match(quick, { reason: undefined, last: unforced }, "a quick link is quick enough");
  quickBytes = (Number(128n * MiB) - quick.last.zeroBytes) * 0.95;
  await turnBack();

  const aborted = await move({ migrationId: "abort", onUnreachable: OnUnreachable.ABORT });
  t.equal(aborted.reason, "MAX_DOWNTIME_UNREACHABLE", "abort gives up, and says why");
  t.ok(aborted.dirtyRate > 1e6, `the guest writes ${String(aborted.dirtyRate)} bytes a second`);
  t.equal(await world.stateOf(source), "running");
  await turnBack();

  const isSlowed = ({ convergence }: SendProgress) => (convergence?.throttlePercent ?? 0) > 0;
  const throttle = { migrationId: "throttle", onUnreachable: OnUnreachable.THROTTLE };
  const throttled = await move(throttle, (now) => !isSlowed(now));
  t.ok(isSlowed(throttled.last) || throttled.last.phase === "handed-over", "throttle slows it down");
  await turnBack();

  const forced = await move({ migrationId: "force", onUnreachable: OnUnreachable.FORCE });
  t.match(forced, { reason: undefined, last: { phase: "handed-over", convergence: { forced: true } } });
  t.ok((forced.last.stoppedMs ?? 0) > maxDowntimeMs, "force breaks the promise, and says so");
  await turnBack();

  const following = { maxDowntimeMs, migrationId: "post-copy", type: MoveType.POSTCOPY };
  const offered = await move(following);
  t.equal(offered.last.phase, "post-copy", "its memory is to follow it");
  t.match([await world.stateOf(source), await world.stateOf(destination)], ["paused", "paused"]);
  const committed = { ...following, committed: true };
  bytesPerSecond /= 4;
  let recoveries = 0;
  const sending = world.send(committed, signal, ({ convergence }) => {
    recoveries += convergence?.recoveries ?? 0;
    return true;
  });
  await live().postCopy!.run(world.withMove(destination, MoveRole.DESTINATION, committed), signal);
  await until(async () => (await world.stateOf(destination)) === "running");
  t.notOk(await live().hasArrived(id), "it runs, and lacks some of its memory");
  t.equal(await reasonOf(source.driver.ensure(source.plan, signal)), "MOVE_COMMITTED", "there only");
  world.cut();
  const { last } = await sending;
  t.comment(JSON.stringify(last));
  t.ok(recoveries > 0, "a connection that is lost is made again");
  t.ok((last?.convergence?.postCopyBytes ?? 0) > 0 && last?.phase === "handed-over");
  await until(() => live().hasArrived(id));
  await destination.driver.ensure(destination.plan, signal);
  await source.driver.remove(id, source.directory, signal);
  const there = await GuestShell.resume(destination.driver, destination.plan, signal);
  t.equal(await there.run("md5sum < /work/seed"), sum, "its memory is whole");
});

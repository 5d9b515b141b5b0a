/** When a guest that is nearly gone may stop, by what is on its way. */
import t from "tap";
import { LastStretch } from "#agent/drivers/qemu/migration/last-stretch.ts";

const MiB = 2 ** 20;

function stretch({ answerMs = 0 } = {}) {
  const backlog = {
    bytes: 30 * MiB,
    answerMs,
    limits: [] as (number | undefined)[],
    limit(bytes: number | undefined) {
      this.limits.push(bytes);
    },
  };
  const stretch = new LastStretch();
  const look = (...how: [leftMs: number, downtimeMs: number, throughput: number]) =>
    stretch.look(backlog, ...how);
  return { backlog, last: { look } };
}

t.test(
  "far from the end what takes a quarter of a second is on its way, and the guest goes on",
  async (t) => {
    const { backlog, last } = stretch();
    backlog.bytes = 0;
    t.notOk(last.look(Infinity, 40, 0), "nothing was measured");
    t.notOk(last.look(2_000, 40, 100 * MiB));
    t.notOk(last.look(2_000, 40, 0), "one look that sees nothing leave");
    t.same(backlog.limits, [undefined, 25 * MiB, 22.5 * MiB]);
    const slow = stretch();
    slow.last.look(60_000, 40, 100_000);
    t.same(slow.backlog.limits, [MiB]);
  },
);

t.test("near the end it stops only when what takes 25 ms is on its way", async (t) => {
  const { backlog, last } = stretch();
  t.notOk(last.look(250, 40, 100 * MiB), "much is on its way");
  t.same(backlog.limits, [2.5 * MiB]);
  backlog.bytes = 4 * MiB;
  t.notOk(last.look(250, 40, 10 * MiB));
  t.same(backlog.limits, [2.5 * MiB], "the limit stays, although little gets through while it is held back");
  backlog.bytes = 2.7 * MiB;
  t.ok(last.look(250, 40, 10 * MiB));
  t.ok(last.look(500, 40, 10 * MiB), "rounds swing");
  t.notOk(last.look(700, 40, 10 * MiB), "the guest has written much again");
  t.equal(backlog.limits.at(-1), 22.75 * MiB, "so much is on its way again");
});

t.test(
  "a long way needs more, a slow link less, and a guest that may stand still for long stops earlier",
  async (t) => {
    const far = stretch({ answerMs: 100 });
    far.last.look(250, 40, 100 * MiB);
    t.same(far.backlog.limits, [12.5 * MiB]);
    const slow = stretch();
    slow.last.look(250, 40, 100_000);
    t.same(slow.backlog.limits, [128 * 1024]);
    const patient = stretch();
    patient.backlog.bytes = MiB;
    t.ok(patient.last.look(350, 200, 100 * MiB));
    const forced = stretch();
    forced.backlog.bytes = MiB;
    t.ok(forced.last.look(600_000, 2_000_000, 100 * MiB));
  },
);

/** When a host that is not heard of is lost, and what an instance on it does then: tables of what is known. */
import t from "tap";
import type { View } from "#cp/engine/controller.ts";
import {
  defaultFenceMs,
  defaultLeaseMs,
  isLost,
  mergeSightings,
  reportEveryMs,
  toLossTiming,
} from "#cp/engine/loss-judgement.ts";
import type { Sighting } from "#cp/resources/host/host.resource.ts";
import { deriveSpec } from "#cp/resources/instance/instance.derive.ts";
import { decideLost, leaseTermsOf, mayLeaveLost } from "#cp/resources/instance/instance.lost.ts";
import { instanceSpec, type Instance, type InstanceSpec } from "#cp/resources/instance/instance.resource.ts";

const timing = toLossTiming(defaultLeaseMs, defaultFenceMs);

t.test(
  "by default a host that dies is seen within 15 s, lost within 24 s, and a lost word does no harm",
  async (t) => {
    const { leaseMs, clockErrorMs, fenceMs, suspectMs, redialMs, returnMs } = timing;
    // The look before the last may end just too early; then there is a pause and one more look.
    const [pauseMs, dialMs] = [Math.min(1_000, leaseMs / 10), 1_500];
    t.ok(suspectMs + pauseMs + dialMs <= 15_000);
    t.ok(leaseMs + clockErrorMs + fenceMs + pauseMs + dialMs <= 24_000, "6 s are left to start its machines");
    t.ok(clockErrorMs >= 200 + 2 * 0.001 * leaseMs, "two clocks that go wrong by a thousandth each way");
    t.ok(2 * 1_000 < fenceMs, "an agent's two steps of pulling a plug, and time to begin");
    const urgentMs = reportEveryMs(leaseMs) / 2;
    t.ok(3 * urgentMs < leaseMs, "two reports of an urgent host may fail");
    t.ok(leaseMs - urgentMs > 12_000, "a control plane that is away for 12 s stops nothing");
    t.ok(reportEveryMs(leaseMs) * 1.2 < suspectMs, "a host that reports in time is not looked at");
    t.ok(suspectMs <= leaseMs);
    t.ok(
      suspectMs + pauseMs + redialMs + pauseMs <= 24_000,
      "nor later when it lives on and only its line is cut",
    );
    t.ok(redialMs > 2 * 4_500 && returnMs >= 30_000, "an agent that dials every 4.5 s has come back");
  },
);

t.test("what others saw decides, not the silence alone", async (t) => {
  const longEnough = timing.leaseMs + timing.clockErrorMs + timing.fenceMs;
  const cases: readonly [Sighting, number, boolean, boolean, string][] = [
    ["silent", longEnough - 1, true, false, "not before its agent has had its time"],
    ["silent", longEnough, true, true, "nothing comes back from it"],
    ["silent", 86_400_000, false, false, "nobody could ever reach it: that proves nothing"],
    ["none", 86_400_000, true, false, "there is nobody to ask"],
    ["refused", 86_400_000, true, false, "its system is up"],
    ["unanswered", 86_400_000, true, false, "its agent may be stopped while machines run"],
    ["answered", 86_400_000, true, false, "its agent is alive and still runs something"],
    ["fenced", timing.leaseMs, false, true, "it has said itself that nothing runs"],
    ["fenced", timing.leaseMs - 1, true, false, "its lease is not over by our clock"],
  ];
  for (const [sighting, silentMs, reached, lost, why] of cases) {
    const silence = { silentMs, sighting, reached, answeringMs: timing.redialMs };
    t.equal(isLost(silence, timing), lost, `${sighting}: ${why}`);
  }
  const back = { silentMs: 86_400_000, sighting: "fenced", reached: true, answeringMs: 0 } as const;
  t.notOk(
    isLost(back, timing),
    "one that was stopped for long and has just gone on is on its way back to us",
  );
});

t.test("an agent that was seen not to be there is not taken for fenced later", async (t) => {
  t.equal(mergeSightings("refused", ["silent", "silent"]), "refused");
  t.equal(mergeSightings("unanswered", []), "unanswered");
  t.equal(mergeSightings("unanswered", ["answered"]), "answered", "until it answers");
  t.equal(mergeSightings("answered", ["silent"]), "silent");
  t.equal(mergeSightings(undefined, ["silent", "refused"]), "refused", "one who got through knows more");
  t.equal(mergeSightings("silent", []), "none");
});

const spec = (change: Partial<InstanceSpec>): InstanceSpec => ({
  ...instanceSpec.parse({ image: "micro" }),
  ...change,
});
const view = (desired: InstanceSpec, agreed: number | undefined, hostLost = true, hostDead = false) =>
  ({
    resource: { id: "vm-1", hostId: "host-1", desired },
    incarnations: [{ hostId: "host-1", observed: { lease_terms: agreed } }],
    hostLost,
    hostDead,
  }) as unknown as View<Instance>;

t.test("an instance leaves a lost host by its owner's wish and with its host's word", async (t) => {
  const bound = spec({ on_host_loss: "restart_elsewhere", on_host_loss_changes: 2 });
  t.equal(leaseTermsOf(bound), 3);
  t.ok(mayLeaveLost(view(bound, 3)));
  t.notOk(mayLeaveLost(view(bound, 1)), "the host agreed to it before its owner changed their mind twice");
  t.notOk(mayLeaveLost(view(bound, undefined)), "the host has never heard of it");
  t.notOk(mayLeaveLost(view(bound, 3, false)));
  t.ok(mayLeaveLost(view(bound, undefined, true, true)), "but somebody is certain that the host is dead");
  t.notOk(
    mayLeaveLost(view(spec({ on_host_loss: "wait" }), undefined, true, true)),
    "and this one waits for it",
  );
  t.notOk(mayLeaveLost(view(spec({ on_host_loss: "wait", on_host_loss_changes: 2 }), 3)));

  t.equal(decideLost(view(bound, 3, false), 0), undefined);
  t.match(decideLost(view(bound, 3), 0), { do: "act", action: "restartElsewhere" });
  t.match(decideLost(view({ ...bound, power: "off" }, 3), 0), { do: "wait" }, "nobody misses it");
  t.match(decideLost(view(bound, 1), 0), { do: "wait", problem: { reason: "HOST_LOST" } });
  t.match(decideLost(view(spec({}), 0), 0), { do: "wait" }, "the default is to wait");
});

t.test("changes of the policy are counted, by nobody but the cloud", async (t) => {
  const first = deriveSpec(spec({ on_host_loss_changes: 7 }), {}, {}, undefined);
  t.equal(first.on_host_loss_changes, 0);
  const second = deriveSpec({ ...first, on_host_loss: "restart_elsewhere" }, {}, {}, first);
  t.equal(second.on_host_loss_changes, 1);
  t.equal(deriveSpec({ ...second, on_host_loss_changes: 9 }, {}, {}, second).on_host_loss_changes, 1);
  const { on_host_loss: _policy, on_host_loss_changes: _changes, ...older } = first;
  t.equal(deriveSpec(first, {}, {}, older as InstanceSpec).on_host_loss_changes, 0);
});

import t from "tap";
import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import { narrate } from "#cp/scheduler/narrate.ts";
import { place } from "#cp/scheduler/place.ts";
import { planRelocation } from "#cp/scheduler/relocate.ts";
import type { HostSnapshot, PlacementRequest } from "#cp/scheduler/snapshot.ts";

const GiB = 1024 ** 3;
const hourMs = 3_600_000;
const idle = { cpus: 0, memoryBytes: 0, diskBytes: 0 };
const usd = (cpuPerHour: number, memoryGibPerHour: number, egressPerGib = 0) => ({
  ...{ cpuPerHour, memoryGibPerHour, egressPerGib },
  currency: "USD",
});
const frankfurt = { latitude: 50.11, longitude: 8.68 };
const mainz = { latitude: 50.0, longitude: 8.27 };
const sydney = { latitude: -33.87, longitude: 151.21 };

const host = (id: string, changes: Partial<HostSnapshot> = {}): HostSnapshot => ({
  ...{ id, provider: "acme", region: "north", zone: "north-1", architecture: "x86_64" },
  ...{ cpuBaseline: "x86-64-v3", driver: "qemu", acceleration: "kvm" },
  capacity: { cpus: 8, memoryBytes: 16 * GiB, diskBytes: 200 * GiB },
  ...{ used: idle, online: true, cordoned: false, capabilities: [] },
  ...{ machineTypes: [], guestCpuModel: "", listenAddress: "" },
  ...changes,
});
const request = (changes: Partial<PlacementRequest> = {}): PlacementRequest => ({
  ...{ cpus: 1, memoryBytes: 2 * GiB, diskBytes: 10 * GiB, imageArchitecture: "x86_64" },
  ...changes,
});

await t.test("an explanation reads like a colleague's answer", async (t) => {
  const full = { used: { ...idle, memoryBytes: 15 * GiB } };
  const hosts = [
    host("a", { prices: usd(0.05, 0.01), location: mainz }),
    host("b", { prices: usd(0.03, 0.005), location: sydney, region: "south" }),
    host("c", { cordoned: true }),
    host("d", { online: false }),
    host("e", full),
    host("f", { provider: "aws" }),
  ];
  const placed = place(hosts, request({ near: frankfurt, provider: "acme" }), {
    ...defaultPolicy(),
    seed: "op-1",
  });
  if ("unplaceable" in placed) return t.fail("there is room");
  const { explain } = placed;
  const nameOf = (id: string) => `host-${id}`;
  t.strictSame(narrate(explain, "a", nameOf), {
    verdict: "It went to host-a (acme/north), the best of 2 that would do, of 6 hosts.",
    reasons: [
      "0.070 USD/h, 75 % more than 0.040 USD/h on host-b.",
      "32 km away, against 16483 km away on host-b.",
      "In all it scores 0.735 against 0.347 of host-b: cost 0.50 with weight 1, distance 0.97 with weight 1.",
    ],
    refused: [
      "1 offline (host-d)",
      "1 cordoned (host-c)",
      "1 of another provider (host-f: aws, not acme)",
      "1 full (host-e: memory: 1.0 GiB short)",
    ],
    would_change: [
      "users within 200 km of host-b (now 16483 km away)",
      "only cost counting: then host-b (0.040 USD/h)",
    ],
  });
  t.match(narrate(explain, "b", nameOf).verdict, /host-a scored better, but had filled up/);
  t.match(narrate(explain, "x", nameOf).verdict, /the scheduler did not choose that/);
  const nowhere = place(hosts, request({ cpus: 9 }), { ...defaultPolicy(), seed: "op-1" });
  if (!("unplaceable" in nowhere)) return t.fail("there is no room");
  t.strictSame(narrate(nowhere.unplaceable, undefined, nameOf), {
    verdict: "None of 6 hosts will do.",
    reasons: [],
    refused: ["1 offline (host-d)", "1 cordoned (host-c)", "4 full (nearest host-a: CPUs: 1 short)"],
    would_change: [
      "host-d coming back",
      "host-c being uncordoned",
      "room on one of the 4 that are full (host-a: CPUs: 1 short)",
    ],
  });
});

await t.test(
  "a move is advised when it is clearly better, pays for itself, and nothing has just moved",
  async (t) => {
    const plan = (from: Partial<HostSnapshot>, to: Partial<HostSnapshot>, hours = 48, asked = request()) =>
      planRelocation(
        { host: host("a", from), request: asked, bytes: 10 * GiB, stayedMs: hours * hourMs },
        host("b", to),
      );
    const [dear, cheap] = [{ prices: usd(0.05, 0.01) }, { prices: usd(0.03, 0.005) }];
    const move = plan(dear, cheap);
    t.match(move, {
      currency: "USD",
      moveCosts: 0,
      reasons: ["0.0700 USD/h now, 0.0400 there", "the move carries 10.0 GiB at no price"],
    });
    t.ok(Math.abs((move?.savesPerHour ?? 0) - 0.03) < 1e-9);
    t.equal(plan(cheap, dear), undefined, "not to where it costs more");
    t.equal(plan(dear, cheap, 23), undefined, "not what has only just come");
    t.equal(plan(dear, { prices: usd(0.045, 0.01) }), undefined, "not for a trifle");
    t.equal(
      plan({ prices: usd(0.05, 0.01, 1) }, cheap),
      undefined,
      "not when the traffic costs more than it saves",
    );
    t.match(
      plan({ prices: usd(0.05, 0.01, 0.1) }, cheap)?.reasons[1],
      /costs 1.00 USD of traffic, paid back in 33.3 h/,
    );
    t.equal(plan({}, cheap), undefined, "not on a price that nobody knows");

    const near = request({ near: frankfurt });
    t.match(plan({ location: sydney }, { location: mainz }, 48, near)?.reasons, [
      "16483 km away now, 32 km there",
      "the move carries 10.0 GiB at no price",
    ]);
    t.equal(
      plan({ ...cheap, location: sydney }, { ...dear, location: mainz }, 48, near),
      undefined,
      "nor nearer but dearer",
    );
    t.equal(
      plan({ ...dear, location: mainz }, { ...cheap, location: sydney }, 48, near),
      undefined,
      "nor away from its users",
    );
  },
);

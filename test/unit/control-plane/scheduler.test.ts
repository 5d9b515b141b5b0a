import t from "tap";
import type { Json } from "#kernel/fault.ts";
import { defaultPolicy, defaultWeights } from "#cp/scheduler/default-policy.ts";
import { summarise } from "#cp/scheduler/explain.ts";
import { architecture } from "#cp/scheduler/filters/architecture.ts";
import { capacity } from "#cp/scheduler/filters/capacity.ts";
import { cordoned } from "#cp/scheduler/filters/cordoned.ts";
import { cpuBaseline } from "#cp/scheduler/filters/cpu-baseline.ts";
import { excluded } from "#cp/scheduler/filters/excluded.ts";
import { image } from "#cp/scheduler/filters/image.ts";
import { online } from "#cp/scheduler/filters/online.ts";
import { provider } from "#cp/scheduler/filters/provider.ts";
import { region } from "#cp/scheduler/filters/region.ts";
import { place } from "#cp/scheduler/place.ts";
import type { Filter, Scorer } from "#cp/scheduler/policy.ts";
import { defaultCostScale } from "#cp/scheduler/prices.ts";
import { cost } from "#cp/scheduler/scorers/cost.ts";
import { distance } from "#cp/scheduler/scorers/distance.ts";
import { packing } from "#cp/scheduler/scorers/packing.ts";
import type { HostSnapshot, PlacementRequest } from "#cp/scheduler/snapshot.ts";
import { reasonOf } from "#test/support/reason-of.ts";

const GiB = 1024 ** 3;

const idle = { cpus: 0, memoryBytes: 0, diskBytes: 0 };
const usd = (cpuPerHour: number, memoryGibPerHour: number) => ({
  cpuPerHour,
  memoryGibPerHour,
  currency: "USD",
});
const frankfurt = { latitude: 50.11, longitude: 8.68 };
const mainz = { latitude: 50.0, longitude: 8.27 };
const sydney = { latitude: -33.87, longitude: 151.21 };

function host(id: string, changes: Partial<HostSnapshot> = {}): HostSnapshot {
  return {
    id,
    provider: "acme",
    region: "north",
    zone: "north-1",
    architecture: "x86_64",
    cpuBaseline: "x86-64-v3",
    driver: "qemu",
    acceleration: "kvm",
    capacity: { cpus: 8, memoryBytes: 16 * GiB, diskBytes: 200 * GiB },
    used: idle,
    online: true,
    cordoned: false,
    capabilities: [],
    machineTypes: ["q35"],
    guestCpuModel: "",
    listenAddress: "",
    ...changes,
  };
}

function request(changes: Partial<PlacementRequest> = {}): PlacementRequest {
  return { cpus: 1, memoryBytes: 2 * GiB, diskBytes: 10 * GiB, imageArchitecture: "x86_64", ...changes };
}

/** What a filter says of one host: undefined when the host passes. */
function refusal(filter: Filter, wanted: PlacementRequest, candidate: HostSnapshot): string | undefined {
  const check = filter.fit(wanted);
  return check === undefined || check.miss(candidate) === 0 ? undefined : check.reason(candidate);
}

await t.test("filters pass a host or say why not", async (t) => {
  const full = { capacity: { cpus: 4, memoryBytes: 8 * GiB, diskBytes: 100 * GiB } };
  const used = (changes: Partial<typeof idle>) => ({ ...full, used: { ...idle, ...changes } });
  const table: readonly [
    string,
    Filter,
    Partial<PlacementRequest>,
    Partial<HostSnapshot>,
    string | undefined,
  ][] = [
    ["online", online, {}, {}, undefined],
    ["offline", online, {}, { online: false }, "offline"],
    ["open", cordoned, {}, {}, undefined],
    ["cordoned", cordoned, {}, { cordoned: true }, "cordoned"],
    ["nothing excluded", excluded, {}, {}, undefined],
    ["an empty exclusion", excluded, { exclude: new Set() }, {}, undefined],
    ["another excluded", excluded, { exclude: new Set(["b"]) }, {}, undefined],
    ["excluded", excluded, { exclude: new Set(["b", "a"]) }, {}, "excluded"],
    ["any provider", provider, {}, {}, undefined],
    ["the provider", provider, { provider: "acme" }, {}, undefined],
    ["another provider", provider, { provider: "aws" }, {}, "acme, not aws"],
    ["any region", region, {}, {}, undefined],
    ["the region", region, { region: "north" }, {}, undefined],
    ["another region", region, { region: "south" }, {}, "north, not south"],
    ["any architecture", architecture, {}, { architecture: "aarch64" }, undefined],
    ["the architecture", architecture, { architecture: "x86_64" }, {}, undefined],
    ["another architecture", architecture, { architecture: "aarch64" }, {}, "x86_64, not aarch64"],
    ["the image's architecture", image, {}, {}, undefined],
    [
      "another image architecture",
      image,
      { imageArchitecture: "aarch64" },
      {},
      "the image is aarch64, the host x86_64",
    ],
    ["any CPU", cpuBaseline, {}, { cpuBaseline: "" }, undefined],
    ["a newer CPU", cpuBaseline, { cpuBaseline: "x86-64-v2" }, {}, undefined],
    ["just that CPU", cpuBaseline, { cpuBaseline: "x86-64-v3" }, {}, undefined],
    ["an older CPU", cpuBaseline, { cpuBaseline: "x86-64-v4" }, {}, "x86-64-v3, not x86-64-v4"],
    ["a CPU of another line", cpuBaseline, { cpuBaseline: "armv8" }, {}, "x86-64-v3, not armv8"],
    ["a newer ARM", cpuBaseline, { cpuBaseline: "armv8" }, { cpuBaseline: "armv9" }, undefined],
    ["a CPU that we do not know", cpuBaseline, { cpuBaseline: "rva23" }, { cpuBaseline: "rva23" }, undefined],
    ["an unreported CPU", cpuBaseline, { cpuBaseline: "rva23" }, { cpuBaseline: "" }, "unknown, not rva23"],
    ["room", capacity, {}, full, undefined],
    ["room to the last CPU", capacity, { cpus: 1 }, used({ cpus: 3 }), undefined],
    ["one CPU too many", capacity, { cpus: 2 }, used({ cpus: 3 }), "CPUs: 1 short"],
    ["room to the last byte", capacity, {}, used({ memoryBytes: 6 * GiB }), undefined],
    ["a byte too much", capacity, {}, used({ memoryBytes: 6 * GiB + 1 }), "memory: 0.1 MiB short"],
    ["less memory", capacity, {}, used({ memoryBytes: 6.5 * GiB }), "memory: 512.0 MiB short"],
    ["no memory", capacity, {}, used({ memoryBytes: 7 * GiB }), "memory: 1.0 GiB short"],
    ["no disk", capacity, {}, used({ diskBytes: 95 * GiB }), "disk: 5.0 GiB short"],
    [
      "neither",
      capacity,
      { cpus: 6 },
      used({ memoryBytes: 8 * GiB }),
      "CPUs: 2 short, memory: 2.0 GiB short",
    ],
    ["overdrawn", capacity, { cpus: 1 }, used({ cpus: 6 }), "CPUs: 3 short"],
    ["overdrawn where nothing is asked", capacity, { cpus: 0 }, used({ cpus: 6 }), undefined],
  ];
  for (const [name, filter, wanted, candidate, expected] of table) {
    t.equal(refusal(filter, request(wanted), host("a", candidate)), expected, `${filter.code}: ${name}`);
  }
  const unknown = host("a", { capacity: { ...idle, cpus: NaN } });
  t.not(capacity.fit(request())?.miss(unknown), 0, "capacity: an unknown amount is no room");
});

await t.test("scorers measure on a fixed scale", async (t) => {
  const half = { capacity: { cpus: 2, memoryBytes: 4 * GiB, diskBytes: 20 * GiB } };
  const eur = { cpuPerHour: 0.05, memoryGibPerHour: 0.01, currency: "EUR" };
  const table: readonly [string, Scorer, Partial<PlacementRequest>, Partial<HostSnapshot>, number, string][] =
    [
      ["free", cost(), {}, { prices: usd(0, 0) }, 1, "0.000 USD/h"],
      ["the reference", cost(), {}, { prices: usd(0.05, 0.01) }, 0.5, "0.070 USD/h"],
      [
        "whatever the size",
        cost(),
        { cpus: 4, memoryBytes: 8 * GiB },
        { prices: usd(0.05, 0.01) },
        0.5,
        "0.280 USD/h",
      ],
      ["three times as much", cost(), {}, { prices: usd(0.15, 0.03) }, 0.25, "0.210 USD/h"],
      ["a very low price", cost(), {}, { prices: usd(0.0004, 0) }, 0.9943, "0.00040 USD/h"],
      ["another currency", cost(), {}, { prices: eur }, 0.4762, "0.070 EUR/h"],
      [
        "a currency of no rate",
        cost(),
        {},
        { prices: { ...eur, currency: "XTS" } },
        0.5,
        "0.070 XTS/h (no rate to USD)",
      ],
      [
        "a currency named like a method",
        cost(),
        {},
        { prices: { ...eur, currency: "toString" } },
        0.5,
        "0.070 toString/h (no rate to USD)",
      ],
      ["no price", cost(), {}, {}, 0.5, "no price"],
      ["nothing asked", cost(), { cpus: 0, memoryBytes: 0 }, { prices: usd(1, 1) }, 1, "0.000 USD/h"],
      ["on the spot", distance(), { near: frankfurt }, { location: frankfurt }, 1, "under 1 km away"],
      ["next town", distance(), { near: frankfurt }, { location: mainz }, 0.9693, "32 km away"],
      ["far away", distance(), { near: frankfurt }, { location: sydney }, 0.0572, "16483 km away"],
      [
        "another half-way point",
        distance(100),
        { near: frankfurt },
        { location: mainz },
        0.7592,
        "32 km away",
      ],
      [
        "across the date line",
        distance(),
        { near: { latitude: 0, longitude: 179.9 } },
        { location: { latitude: 0, longitude: -179.9 } },
        0.9782,
        "22 km away",
      ],
      [
        "the opposite side",
        distance(),
        { near: { latitude: 12.3, longitude: 45.6 } },
        { location: { latitude: -12.3, longitude: -134.4 } },
        0.0476,
        "20015 km away",
      ],
      ["nowhere", distance(), { near: frankfurt }, {}, 0, "place unknown"],
      ["half full", packing, {}, half, 0.5, "50 % full"],
      [
        "fuller",
        packing,
        {},
        { ...half, used: { cpus: 1, memoryBytes: GiB, diskBytes: 0 } },
        0.75,
        "75 % full",
      ],
      ["a large host", packing, {}, {}, 0.1, "10 % full"],
      [
        "overdrawn",
        packing,
        {},
        { ...half, used: { cpus: 9, memoryBytes: 9 * GiB, diskBytes: 90 * GiB } },
        1,
        "100 % full",
      ],
      [
        "without disks",
        packing,
        { diskBytes: 0 },
        { capacity: { ...half.capacity, diskBytes: 0 } },
        0.6667,
        "67 % full",
      ],
    ];
  for (const [name, scorer, wanted, candidate, score, measure] of table) {
    const gauge = scorer.fit(request(wanted));
    const rated = host("a", candidate);
    t.equal(gauge?.score(rated).toFixed(4), score.toFixed(4), `${scorer.name}: ${name}`);
    t.equal(gauge?.measure(rated), measure, `${scorer.name}: ${name} in words`);
  }
  t.equal(distance().fit(request()), undefined, "distance: not asked for");
  const dear = cost({ ...defaultCostScale, reference: usd(0.15, 0.03) }).fit(request());
  t.equal(dear?.score(host("a", { prices: usd(0.15, 0.03) })), 0.5, "cost: the scale is the operator's");
});

await t.test("a placement takes the best host and says why", async (t) => {
  const near = host("near", { prices: usd(0.05, 0.01), location: mainz });
  const far = host("far", { prices: usd(0.05, 0.01), location: sydney });
  const cheap = host("cheap", { prices: usd(0.01, 0.002), location: sydney });
  const crowded = { used: { cpus: 1, memoryBytes: 15 * GiB, diskBytes: 0 } };
  const hosts = [
    far,
    host("full-1", { used: { cpus: 8, memoryBytes: 16 * GiB, diskBytes: 0 } }),
    cheap,
    host("closed", { cordoned: true }),
    near,
    host("full-2", crowded),
  ];
  const placed = place(hosts, request({ near: frankfurt }), { ...defaultPolicy(), seed: "op-1" });
  t.match(placed, {
    host: "near",
    alternates: ["cheap", "far"],
    explain: {
      seed: "op-1",
      hosts: 6,
      eligible: 3,
      rejected: [
        {
          code: "cordoned",
          verdict: "cordoned",
          count: 1,
          nearest: { host_id: "closed", reason: "cordoned" },
        },
        {
          code: "capacity",
          verdict: "full",
          count: 2,
          nearest: { host_id: "full-2", reason: "memory: 1.0 GiB short" },
        },
      ],
    },
  });
  if ("unplaceable" in placed) return t.fail("there is room");
  t.same(placed.explain.best[0], {
    host_id: "near",
    provider: "acme",
    region: "north",
    score: 0.7346,
    parts: [
      { scorer: "cost", weight: 1, score: 0.5, measure: "0.070 USD/h", amount: 0.07, unit: "USD/h" },
      { scorer: "distance", weight: 1, score: 0.9693, measure: "32 km away", amount: 31.7238, unit: "km" },
    ],
  });
  const rejected = "3 hosts rejected: 1 cordoned, 2 full (memory: 1.0 GiB short)";
  t.equal(summarise(placed.explain), `0.070 USD/h, 32 km away; ${rejected}`);
  t.equal(summarise(placed.explain, "far"), `0.070 USD/h, 16483 km away; ${rejected}`);
  t.equal(summarise(placed.explain, "elsewhere"), `one of 3 hosts that will do; ${rejected}`);
  const stored: Json = placed.explain;
  t.same(JSON.parse(JSON.stringify(stored)), placed.explain, "survives being stored");

  const thrifty = { ...defaultWeights, distance: 0.1 };
  t.match(place(hosts, request({ near: frankfurt }), { ...defaultPolicy(thrifty), seed: "op-1" }), {
    host: "cheap",
  });
});

await t.test("who asks for the nearest gets it, whatever it costs, and the next when that is full", (t) => {
  const dear = { prices: usd(5, 1), location: frankfurt };
  const crowded = { used: { cpus: 1, memoryBytes: 15 * GiB, diskBytes: 0 } };
  const cheap = host("cheap", { prices: usd(0.001, 0.0001), location: { latitude: 50.1, longitude: 8.6 } });
  const chosen = (hosts: readonly HostSnapshot[], wanted: Partial<PlacementRequest>) => {
    const placed = place(hosts, request({ near: frankfurt, ...wanted }), {
      ...defaultPolicy(),
      seed: "op-1",
    });
    return "unplaceable" in placed ? undefined : placed.host;
  };
  const nearest = { nearestFirst: true };
  const farther = host("farther", { prices: usd(0.001, 0.0001), location: mainz });
  t.equal(chosen([host("dear", dear), cheap], {}), "cheap", "else it is the price that decides");
  t.equal(chosen([host("dear", dear), cheap], nearest), "dear");
  t.equal(chosen([host("dear", { ...dear, ...crowded }), farther, cheap], nearest), "cheap");
  t.equal(chosen([host("dear", dear), host("fair", { ...dear, prices: usd(0.05, 0.01) })], nearest), "fair");
  t.end();
});

await t.test("what cannot be placed is explained", async (t) => {
  const options = { ...defaultPolicy(), seed: "op-1" };
  const sentence = (hosts: readonly HostSnapshot[], wanted: PlacementRequest) => {
    const result = place(hosts, wanted, options);
    return "unplaceable" in result ? summarise(result.unplaceable) : `placed on ${result.host}`;
  };
  t.equal(sentence([], request()), "there are no hosts");
  t.equal(sentence([host("a", { online: false })], request()), "none of 1 host will do: 1 offline");
  t.equal(
    sentence(
      [
        host("a"),
        host("b", { provider: "aws" }),
        host("c", { provider: "aws", region: "south", cpuBaseline: "x86-64-v1" }),
      ],
      request({ provider: "aws", region: "south", cpuBaseline: "x86-64-v2" }),
    ),
    "none of 3 hosts will do: 1 of another provider (acme, not aws), 1 in another region (north, not south), " +
      "1 without the CPU baseline (x86-64-v1, not x86-64-v2)",
  );
  const alone = place([host("a")], request(), options);
  t.match(alone, { host: "a", alternates: [] });
  const unweighted = place([host("a"), host("b")], request(), { ...options, scorers: [] });
  if ("unplaceable" in unweighted) return t.fail("there is room");
  t.equal(summarise(unweighted.explain), "one of 2 hosts that will do");
});

await t.test("weights are numbers of 0 or more", async (t) => {
  for (const weight of [-1, NaN, Infinity]) {
    const attempt = () => defaultPolicy({ ...defaultWeights, packing: weight });
    t.equal(await reasonOf(attempt), "WEIGHT_INVALID", `${String(weight)} is no weight`);
  }
  const names = defaultPolicy({ cost: 0, distance: 1, packing: 0, spread: 0 }).scorers.map(
    ({ scorer }) => scorer.name,
  );
  t.same(names, ["distance"], "what weighs nothing is not asked");
});

await t.test("explanations stay small with ten thousand hosts", async (t) => {
  const hosts = Array.from({ length: 10_000 }, (_, i) =>
    host(`host-${String(i)}`, {
      online: i % 3 !== 0,
      cordoned: i % 5 === 0,
      region: `region-${String(i % 7)}`,
    }),
  );
  const result = place(hosts, request({ region: "region-1", near: frankfurt }), {
    ...defaultPolicy(),
    seed: "op-1",
  });
  if ("unplaceable" in result) return t.fail("there is room");
  t.equal(result.alternates.length, 5);
  t.equal(result.explain.best.length, 10);
  t.ok(JSON.stringify(result.explain).length < 6000, "under 6 kB");
});

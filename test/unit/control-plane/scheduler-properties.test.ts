import fc from "fast-check";
import t from "tap";
import { defaultPolicy } from "#cp/scheduler/default-policy.ts";
import { summarise, type Explanation } from "#cp/scheduler/explain.ts";
import { HostClasses } from "#cp/scheduler/host-classes.ts";
import { place, type Placement } from "#cp/scheduler/place.ts";
import { Placer } from "#cp/scheduler/placer.ts";
import type { Amounts, HostSnapshot, PlacementRequest } from "#cp/scheduler/snapshot.ts";

const policy = defaultPolicy();
const idle: Amounts = { cpus: 0, memoryBytes: 0, diskBytes: 0 };

// Few different values, so that hosts collide, tie and run full often; mostly usable ones, so that most
// requests have several hosts to choose from.
const mostly = <T>(usual: T, rare: T): fc.Arbitrary<T> =>
  fc.oneof({ weight: 9, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constant(rare) });
const amounts = (limit: number): fc.Arbitrary<Amounts> => {
  const amount = fc.nat({ max: limit });
  return fc.record({ cpus: amount, memoryBytes: amount, diskBytes: amount });
};
const point = fc.record({
  latitude: fc.double({ min: -90, max: 90, noNaN: true }),
  longitude: fc.double({ min: -180, max: 180, noNaN: true }),
});
const price = fc.double({ min: 0, max: 1, noNaN: true });
const names = fc.constantFrom("a", "b");
const architectures = mostly("x86_64", "aarch64");
const baselines = fc.constantFrom("x86-64-v1", "x86-64-v3", "armv8", "");

const anyHost: fc.Arbitrary<HostSnapshot> = fc.record({
  id: fc.string({ minLength: 1, maxLength: 2 }),
  provider: names,
  region: names,
  zone: names,
  location: fc.option(point, { nil: undefined }),
  prices: fc.option(
    fc.record({ cpuPerHour: price, memoryGibPerHour: price, currency: fc.constantFrom("USD", "EUR", "XTS") }),
    { nil: undefined },
  ),
  architecture: architectures,
  cpuBaseline: baselines,
  driver: fc.constant("fake"),
  acceleration: fc.constant("none"),
  capacity: fc.tuple(amounts(20), fc.nat({ max: 2 })).map(([amount, gpus]) => ({ ...amount, gpus })),
  used: amounts(4),
  online: mostly(true, false),
  cordoned: mostly(false, true),
  capabilities: mostly(["gpu"], []),
  taints: mostly<readonly string[]>([], ["dedicated"]),
  gpuModel: fc.constantFrom(undefined, "A", "B"),
  country: fc.constantFrom(undefined, "DE", "FR"),
  machineTypes: fc.constant([]),
  guestCpuModel: fc.constant(""),
  listenAddress: fc.constant(""),
});
const anyHosts = fc.uniqueArray(anyHost, { selector: (host) => host.id, maxLength: 30, size: "max" });

const sometimes = <T>(asked: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.oneof({ weight: 3, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: asked });
const anyRequest: fc.Arbitrary<PlacementRequest> = fc
  .tuple(
    amounts(4),
    fc.record({
      provider: sometimes(names),
      region: sometimes(names),
      architecture: sometimes(architectures),
      cpuBaseline: sometimes(fc.constantFrom("x86-64-v2", "armv8")),
      countries: sometimes(fc.constantFrom(["DE"], ["DE", "FR"])),
      tolerations: sometimes(fc.constant(["dedicated"])),
      gpus: sometimes(fc.constantFrom(1, 2)),
      gpuModel: sometimes(fc.constant("A")),
      maxPrice: sometimes(fc.record({ amount: price, currency: fc.constantFrom("USD", "EUR", "XTS") })),
      together: sometimes(fc.array(fc.constantFrom("a", "b", "c"), { maxLength: 3 })),
      apart: sometimes(fc.array(fc.constantFrom("a", "b", "c"), { maxLength: 3 })),
      inZones: sometimes(fc.constantFrom<[string, number][]>([], [["a/a/a", 2]])),
      imageArchitecture: architectures,
      near: fc.option(point, { nil: undefined }),
      nearestFirst: sometimes(fc.constant(true)),
      exclude: sometimes(fc.array(fc.string({ minLength: 1, maxLength: 1 })).map((ids) => new Set(ids))),
    }),
  )
  .map(([size, rest]) => ({ ...size, ...rest }));

/** Idle hosts that differ in nothing but their ids, and a request that any of them can take. */
const twin = (id: string): HostSnapshot => ({
  id,
  provider: "a",
  region: "a",
  zone: "a",
  architecture: "x86_64",
  cpuBaseline: "x86-64-v1",
  driver: "fake",
  acceleration: "none",
  capacity: { cpus: 8, memoryBytes: 8, diskBytes: 8 },
  used: idle,
  online: true,
  cordoned: false,
  capabilities: [],
  machineTypes: [],
  guestCpuModel: "",
  listenAddress: "",
});
const small: PlacementRequest = { cpus: 1, memoryBytes: 1, diskBytes: 1, imageArchitecture: "x86_64" };

const explanationOf = (placement: Placement): Explanation =>
  "unplaceable" in placement ? placement.unplaceable : placement.explain;

const plus = (a: Amounts, b: Amounts): Amounts => ({
  cpus: a.cpus + b.cpus,
  memoryBytes: a.memoryBytes + b.memoryBytes,
  diskBytes: a.diskBytes + b.diskBytes,
});
const fits = (a: Amounts, b: Amounts): boolean =>
  a.cpus <= b.cpus && a.memoryBytes <= b.memoryBytes && a.diskBytes <= b.diskBytes;

/** Checks a property of any cloud and any request; a failure prints the smallest counterexample. */
function holds(
  property: (hosts: readonly HostSnapshot[], request: PlacementRequest, seed: string) => boolean,
): void {
  fc.assert(fc.property(anyHosts, anyRequest, fc.string({ maxLength: 8 }), property), { numRuns: 500 });
}

await t.test("capacity is never exceeded, on the chosen host and on every alternate", async () => {
  const unbound = { imageArchitecture: "x86_64" };
  const usable = anyHosts.map((hosts) =>
    hosts.map((host) => ({
      ...host,
      used: idle,
      online: true,
      cordoned: false,
      taints: [],
      architecture: "x86_64",
    })),
  );
  fc.assert(
    fc.property(usable, fc.array(amounts(4), { maxLength: 60 }), (hosts, sizes) => {
      const cloud = new Map<string, HostSnapshot>(hosts.map((host) => [host.id, host]));
      for (const [i, size] of sizes.entries()) {
        const result = place([...cloud.values()], { ...size, ...unbound }, { ...policy, seed: String(i) });
        const roomy = [...cloud.values()].filter((host) => fits(plus(host.used, size), host.capacity));
        if ("unplaceable" in result) {
          if (roomy.length > 0) return false;
          continue;
        }
        const offered = [result.host, ...result.alternates];
        if (!offered.every((id) => roomy.some((host) => host.id === id))) return false;
        const chosen = cloud.get(result.host);
        if (chosen) cloud.set(chosen.id, { ...chosen, used: plus(chosen.used, size) });
      }
      return [...cloud.values()].every((host) => fits(host.used, host.capacity));
    }),
  );
});

await t.test("only hosts that satisfy the request are offered", async () => {
  holds((hosts, request, seed) => {
    const result = place(hosts, request, { ...policy, seed });
    if ("unplaceable" in result) return true;
    return [result.host, ...result.alternates].every((id) => {
      const host = hosts.find((candidate) => candidate.id === id);
      return (
        host !== undefined &&
        host.online &&
        !host.cordoned &&
        host.architecture === request.imageArchitecture &&
        [undefined, host.provider].includes(request.provider) &&
        [undefined, host.region].includes(request.region) &&
        [undefined, host.architecture].includes(request.architecture) &&
        (request.countries ?? [host.country]).includes(host.country as never) &&
        (host.taints ?? []).every((taint) => request.tolerations?.includes(taint)) &&
        (host.capacity.gpus ?? 0) >= (request.gpus ?? 0) &&
        request.apart?.includes(id) !== true &&
        (!request.together?.length || request.together.includes(id)) &&
        request.exclude?.has(id) !== true
      );
    });
  });
});

await t.test("the order of hosts does not matter, not even to the explanation", async (t) => {
  const shuffled = anyHosts.chain((hosts) =>
    fc.tuple(fc.constant(hosts), fc.shuffledSubarray(hosts, { minLength: hosts.length })),
  );
  fc.assert(
    fc.property(shuffled, anyRequest, fc.string(), ([hosts, others], request, seed) => {
      const [a, b] = [hosts, others].map((order) => place(order, request, { ...policy, seed }));
      return JSON.stringify(a) === JSON.stringify(b);
    }),
    { numRuns: 500 },
  );
  // More twins than an explanation shows: which of them it shows must not depend on their order either.
  const twins = Array.from({ length: 30 }, (_, i) => twin(`host-${String(i)}`));
  fc.assert(
    fc.property(fc.shuffledSubarray(twins, { minLength: twins.length }), fc.string(), (order, seed) => {
      const [a, b] = [twins, order].map((hosts) => place(hosts, small, { ...policy, seed }));
      return JSON.stringify(a) === JSON.stringify(b);
    }),
  );
  t.pass("same answers");
});

await t.test("adding an idle host never makes a request fail", async () => {
  fc.assert(
    fc.property(anyHosts, anyHost, anyRequest, fc.string(), (hosts, extra, request, seed) => {
      const before = place(hosts, request, { ...policy, seed });
      const added = { ...extra, id: "the new one", used: idle };
      const after = place([...hosts, added], request, { ...policy, seed });
      return "unplaceable" in before || !("unplaceable" in after);
    }),
    { numRuns: 500 },
  );
});

await t.test("the explanation accounts for every host, on scales from 0 to 1", async () => {
  const between0And1 = (score: number) => score >= 0 && score <= 1;
  holds((hosts, request, seed) => {
    const result = place(hosts, request, { ...policy, seed });
    const explain = explanationOf(result);
    const rejected = explain.rejected.reduce((sum, { count }) => sum + count, 0);
    const sorted = explain.best.every((host, i) => host.score <= (explain.best[i - 1]?.score ?? 1));
    return (
      explain.hosts === hosts.length &&
      explain.eligible + rejected === hosts.length &&
      explain.best.length === Math.min(10, explain.eligible) &&
      sorted &&
      explain.best.every(({ score, parts }) =>
        [score, ...parts.map((part) => part.score)].every(between0And1),
      ) &&
      explain.rejected.every(({ count, nearest }) => count > 0 && nearest.reason !== "") &&
      !/undefined|NaN|Infinity/.test(summarise(explain)) &&
      "unplaceable" in result === (explain.eligible === 0) &&
      ("unplaceable" in result || result.host === explain.best[0]?.host_id)
    );
  });
});

await t.test("the same seed gives the same choice", async () => {
  holds((hosts, request, seed) => {
    const [a, b] = [1, 2].map(() => JSON.stringify(place(hosts, request, { ...policy, seed })));
    return a === b;
  });
});

await t.test("ties spread over the hosts by seed", async (t) => {
  const twins = Array.from({ length: 10 }, (_, i) => twin(`host-01k9zq3v7m2b4c6d8f${String(i)}`));
  const chosen = new Map<string, number>();
  const seconds = new Set<string>();
  for (let i = 0; i < 1000; i++) {
    const result = place(twins, small, { ...policy, seed: `op-${String(i)}` });
    if ("unplaceable" in result) return t.fail("there is room");
    chosen.set(result.host, (chosen.get(result.host) ?? 0) + 1);
    if (result.host === twins[0]?.id) seconds.add(result.alternates[0] ?? "");
  }
  t.equal(chosen.size, 10, "every twin is chosen by some seed");
  for (const [id, count] of chosen)
    t.ok(count > 50 && count < 150, `${id} is chosen ${String(count)} times of 1000`);
  t.ok(seconds.size >= 8, "what comes second does not follow from what comes first");
});

await t.test(
  "the choice by classes is that of a full scan, whatever has happened to the fleet",
  async (t) => {
    // Few labels and loads, so that hosts share classes and are twins.
    const load = fc.constantFrom<Amounts>(
      idle,
      { cpus: 1, memoryBytes: 2, diskBytes: 3 },
      { cpus: 4, memoryBytes: 4, diskBytes: 4 },
    );
    const price = fc.constantFrom(undefined, { cpuPerHour: 0.1, memoryGibPerHour: 0.01, currency: "USD" });
    const plain = fc.record({
      id: fc.constantFrom(..."abcdefghijklmnopqrstuvwxyz"),
      zone: names,
      used: load,
      prices: price,
    });
    const similar = plain.map((changes) => ({ ...twin(changes.id), ...changes }));
    const hosts = fc.array(fc.oneof({ weight: 3, arbitrary: similar }, anyHost), {
      maxLength: 40,
      size: "max",
    });
    const step = fc.record({
      changes: fc.array(fc.oneof(similar, anyHost), { maxLength: 4 }),
      gone: fc.array(fc.constantFrom(..."abcdefgh"), { maxLength: 2 }),
      request: fc.oneof(anyRequest, fc.constant(small)),
      host: sometimes(fc.constantFrom("a", "b")),
      seed: fc.string({ maxLength: 2 }),
    });
    fc.assert(
      fc.property(hosts, fc.array(step, { minLength: 1, maxLength: 8 }), (before, steps) => {
        const known = new Map(before.map((host) => [host.id, host]));
        const classes = new HostClasses(before);
        const placer = new Placer(classes, policy);
        return steps.every(({ changes, gone, request, host, seed }) => {
          for (const change of changes) {
            known.set(change.id, change);
            classes.set(change);
          }
          for (const id of gone) {
            known.delete(id);
            classes.delete(id);
          }
          const asked = { ...request, host };
          const plainly = place([...known.values()], asked, { ...policy, seed });
          const chosen = placer.choose(asked, seed);
          return (
            classes.size === known.size &&
            JSON.stringify(placer.place(asked, seed)) === JSON.stringify(plainly) &&
            JSON.stringify(chosen.map(({ id }) => id)) ===
              JSON.stringify("unplaceable" in plainly ? [] : [plainly.host, ...plainly.alternates])
          );
        });
      }),
      { numRuns: 400 },
    );
    t.pass("same answers");
  },
);

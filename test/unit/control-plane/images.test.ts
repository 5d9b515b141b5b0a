import t from "tap";
import type { View } from "#cp/engine/controller.ts";
import { catalogue, isCatalogueImage, seedId, toSeed } from "#cp/resources/image/catalogue.ts";
import { findChecksum } from "#cp/resources/image/checksums.ts";
import { decideImage, progressEveryMs } from "#cp/resources/image/image.decide.ts";
import {
  image,
  imageSpec,
  normaliseImageName,
  type Image,
  type ImageFile,
} from "#cp/resources/image/image.resource.ts";
import { newId, parseId } from "#kernel/id.ts";
import { reasonOf } from "#test/support/reason-of.ts";

const now = 1_700_000_000_000;
const file: ImageFile = { role: "disk", sha256: "a".repeat(64), size_bytes: 10, url: "", format: "raw" };
const done = { files: [file], bytes_done: 10, bytes_total: 10 };
const reading = { files: [], bytes_done: 3, bytes_total: 10 };
const url = { type: "url", url: "https://example.org/x", sha256: null, checksums_url: null } as const;

function view(change: Partial<Image>, source: Image["desired"]["source"], dependents = 0): View<Image> {
  const spec = { ...imageSpec.parse({ source }), source };
  const resource: Image = {
    id: newId("img"),
    kind: "image",
    project: "root",
    name: "x",
    labels: {},
    generation: 2,
    observedGeneration: 0,
    desired: spec,
    observed: undefined,
    refs: {},
    placement: undefined,
    problem: undefined,
    phase: "pending",
    hostId: undefined,
    revision: 1,
    schemaVersion: 1,
    owner: "",
    createdAt: new Date(now),
    updatedAt: new Date(now),
    deletingAt: undefined,
    ...change,
  };
  const nothing = {
    incarnations: [],
    reserved: [],
    operation: undefined,
    lastOperation: undefined,
    references: {},
    requests: [],
  };
  return { resource, dependents, ...nothing };
}

await t.test("what an image needs next", async (t) => {
  const seeded = { id: seedId("debian-12") };
  const cases: readonly [string, View<Image>, object][] = [
    ["a URL is resolved", view({}, url), { do: "act", action: "resolve" }],
    ["one of the catalogue is left alone", view(seeded, url), { do: "settle" }],
    ["until somebody wants it", view(seeded, url, 1), { do: "act", action: "resolve" }],
    [
      "reading shows its progress",
      view({ observed: reading }, url),
      { do: "wait", until: now + progressEveryMs },
    ],
    [
      "and is looked at again",
      view({ observed: reading, updatedAt: new Date(now - progressEveryMs) }, url),
      { do: "act", action: "resolve" },
    ],
    ["an upload is waited for", view({}, { type: "upload" }), { do: "settle" }],
    [
      "built-in content is told",
      view({}, { type: "built-in", files: [file] }),
      { do: "act", action: "confirm" },
    ],
    [
      "a changed description too",
      view({ observed: done, observedGeneration: 1 }, url),
      { do: "act", action: "confirm" },
    ],
    ["then all is well", view({ observed: done, observedGeneration: 2 }, url), { do: "settle" }],
    ["it goes", view({ deletingAt: new Date(now) }, url), { do: "act", action: "erase" }],
    ["when nobody uses it", view({ deletingAt: new Date(now) }, url, 2), { do: "wait", until: now + 60_000 }],
  ];
  for (const [name, given, expected] of cases) t.match(decideImage(given, now), expected, name);
});

await t.test("an image that is made of an instance", async (t) => {
  const source = { type: "instance", instance: "vm-1" } as const;
  const of = (instance: object | undefined, change: Partial<Image> = {}): View<Image> => ({
    ...view(change, source),
    references: instance === undefined ? {} : { instance: instance as View["resource"] },
  });
  const cases: readonly [string, View<Image>, object][] = [
    ["a running one's disk is copied", of({ phase: "running" }), { do: "act", action: "capture" }],
    ["a stopped one's too", of({ phase: "stopped" }), { do: "act", action: "capture" }],
    [
      "of one that moves, later",
      of({ phase: "migrating" }),
      { do: "wait", problem: { reason: "INSTANCE_BUSY" } },
    ],
    [
      "one that goes is not waited for",
      of({ deletingAt: new Date() }),
      { do: "stick", reason: "INSTANCE_GONE" },
    ],
    ["nor one that is gone", of(undefined), { do: "stick", reason: "INSTANCE_GONE" }],
    ["unless it is copied", of(undefined, { observed: done, observedGeneration: 2 }), { do: "settle" }],
    [
      "its progress is shown",
      of({ phase: "running", hostId: "host-1" }, { observed: reading }),
      { do: "wait", hostId: "host-1" },
    ],
  ];
  for (const [name, given, expected] of cases) t.match(decideImage(given, now), expected, name);
  const derive = (given: object, base?: object) =>
    image.derive?.(
      imageSpec.parse({ source: { type: "instance", instance: "web" }, ...given }),
      { ...given },
      {
        instance: { id: "vm-1", desired: { disk_bytes: 7 } } as View["resource"],
        ...(base && { base: { desired: imageSpec.parse({ source: { type: "upload" }, ...base }) } as Image }),
      },
      undefined,
    );
  const plain = { source, min_disk_bytes: 7, type: "disk", architecture: "x86_64", os: null };
  t.match(derive({}), plain, "it is named by its id, and its disk is the least");
  t.match(derive({ type: "disk" }, {}), plain);
  const os = { type: "linux", name: "Own", version: "1" } as const;
  const base = { type: "kernel", architecture: "aarch64", command_line: "quiet", os };
  t.match(derive({}, base), base, "it starts as the instance does");
  t.match(derive({ command_line: "debug", os: { name: "Mine" } }, base), {
    command_line: "debug",
    os: { name: "Mine" },
  });
  t.throws(() => derive({ type: "disk" }, base), /spec.type: .* kernel/);
  t.throws(() => derive({ architecture: "aarch64" }, {}), /spec.architecture/);
});

await t.test("checksums are found in every form that is published", async (t) => {
  const [a, b, long] = ["a".repeat(64), "b".repeat(64), "c".repeat(128)];
  const coreutils = `# comment\n${a}  other.img\n${b} *disk.img\n`;
  const bsd = `-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.img: 1 bytes\nSHA256 (other.img) = ${a}\nSHA256 (disk.img) = ${b.toUpperCase()}\n`;
  t.same(findChecksum(coreutils, "disk.img"), { algorithm: "sha256", hex: b });
  t.same(findChecksum(`${b}  ./disk.img\r\n`, "disk.img"), { algorithm: "sha256", hex: b });
  t.same(findChecksum(bsd, "disk.img"), { algorithm: "sha256", hex: b });
  t.same(findChecksum(`${long}  disk.img\n`, "disk.img"), { algorithm: "sha512", hex: long });
  t.same(findChecksum(`${long}\n`, "disk.img"), { algorithm: "sha512", hex: long }, "nothing but a checksum");
  const useless = [
    "",
    coreutils.replaceAll("disk", "disc"),
    `${a}\n${b}\n`,
    "<html></html>",
    `${a.slice(1)}  disk.img`,
  ];
  for (const list of useless) {
    t.equal(
      await reasonOf(() => findChecksum(list, "disk.img")),
      "IMAGE_CHECKSUM_MISSING",
      JSON.stringify(list.slice(0, 20)),
    );
  }
});

await t.test("the catalogue", async (t) => {
  const claimed = new Map<string, string>();
  for (const { id, name, spec } of catalogue) {
    t.same(imageSpec.parse(spec), spec, `${name} is a valid image`);
    t.equal(parseId(id, ["img"]), id, `${name} has a valid id`);
    t.ok(isCatalogueImage(id));
    for (const alias of spec.aliases) {
      t.equal(normaliseImageName(alias), alias, `${alias} is stored as it is compared`);
      t.equal(claimed.get(alias), undefined, `${alias} means one image`);
      claimed.set(alias, name);
    }
    if (spec.source.type !== "url") continue;
    t.notMatch(spec.source.url + String(spec.source.checksums_url), /[{}]/, "no blank is left unfilled");
    t.equal(image.phase({ ...view({}, spec.source).resource }), "listed");
  }
  t.notOk(isCatalogueImage(newId("img")), "a made id is nobody's seed");
  const wanted = [
    "ubuntu-22.04",
    "Ubuntu 22.04",
    "ami-ubuntu2204",
    "ubuntu-20.04-lts",
    "Debian 12",
    "alpine",
  ];
  const found = wanted.map((name) => claimed.get(normaliseImageName(name)));
  t.same(found, ["ubuntu-22.04", "ubuntu-22.04", "ubuntu-22.04", "ubuntu-20.04", "debian-12", "alpine-3.21"]);
  t.equal(toSeed("A b", catalogue[0]!.spec, ["a-B", "c"]).id, seedId("a-b"), "ids follow the compared name");
});

/** What instances take over from flavors and key pairs. */
import { createPublicKey, generateKeyPairSync } from "node:crypto";
import t from "tap";
import { builtInFlavors } from "#cp/resources/flavor/built-in.ts";
import { flavorSpec, type FlavorSpec } from "#cp/resources/flavor/flavor.resource.ts";
import type { Resource } from "#cp/resources/definition.ts";
import { deriveSpec } from "#cp/resources/instance/instance.derive.ts";
import { instanceSpec } from "#cp/resources/instance/instance.resource.ts";
import {
  fingerprintOf,
  formatPublicKey,
  generateKeyPair,
  parsePublicKey,
} from "#cp/resources/key-pair/openssh.ts";
import { renamer } from "#cp/dialects/words.ts";
import { reasonOf } from "#test/support/reason-of.ts";

const GiB = 1024 ** 3;

/** Made by ssh-keygen, with the fingerprints that it shows. */
const known: Readonly<Record<string, string>> = {
  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIElLldTU7rZwPzFXtGYZH3qz83bn4/xkj1KaLbf/Lpco a key":
    "SHA256:cDxhQImaA80LEmGti4r0RpJv7BoAvbDUZXnyrXMNYrw",
  "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBIA3h2hDamvbwQr902HslFoM76ewcZ6Tr308qmnDNsICwZWsxlDguqN3xFWThT0AX8VSIOYtlwDqwltaDYAzAp4=":
    "SHA256:Sw2S3Cb1TLFuLsMG62leBOD7aaYv220n3cjqoZY7Ei0",
};

void t.test("public keys", async (t) => {
  for (const [line, fingerprint] of Object.entries(known)) {
    const key = parsePublicKey(` ${line}\n`);
    t.equal(formatPublicKey(key), line);
    t.equal(fingerprintOf(key), fingerprint);
  }
  const { publicKey, privateKey } = generateKeyPair();
  const line = formatPublicKey(publicKey);
  t.same(parsePublicKey(`${line} me@here`), { ...publicKey, comment: "me@here" });
  t.match(fingerprintOf(publicKey), /^SHA256:[A-Za-z0-9+/]{43}$/);
  t.match(privateKey, /^-----BEGIN OPENSSH PRIVATE KEY-----\n[\s\S]+\n-----END OPENSSH PRIVATE KEY-----\n$/);
  const bytes = Buffer.from(privateKey.split("\n").slice(1, -2).join(""), "base64");
  t.ok(bytes.includes(publicKey.blob), "both halves are of one pair");

  const word = (text: string | Buffer) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(text.length);
    return Buffer.concat([length, Buffer.from(text)]);
  };
  const rsa = (bits: number) => {
    const { publicKey: key } = generateKeyPairSync("rsa", { modulusLength: bits });
    const { n = "", e = "" } = createPublicKey(key.export({ format: "pem", type: "spki" })).export({
      format: "jwk",
    });
    const modulus = Buffer.concat([Buffer.from([0]), Buffer.from(n, "base64url")]);
    const blob = Buffer.concat([word("ssh-rsa"), word(Buffer.from(e, "base64url")), word(modulus)]);
    return `ssh-rsa ${blob.toString("base64")}`;
  };
  t.equal(parsePublicKey(rsa(2048)).type, "ssh-rsa");
  const wrong = [
    "",
    "hello",
    line.replace("ssh-ed25519", "ssh-dss"),
    line.replace("ssh-ed25519", "ssh-rsa"),
    line.slice(0, -8),
    `command="x" ${line}`,
    `${line}\n${line}`,
    rsa(1024),
  ];
  for (const text of wrong)
    t.equal(await reasonOf(async () => parsePublicKey(text)), "PUBLIC_KEY_INVALID", text);
});

void t.test("sizes by flavor", async (t) => {
  const toResource = (name: string, desired: unknown) => ({ name, desired }) as unknown as Resource;
  const flavorOf = (spec: Partial<FlavorSpec>) =>
    toResource("f.x", flavorSpec.parse({ vcpus: 2, memory_bytes: 4 * GiB, disk_bytes: 40 * GiB, ...spec }));
  const derive = (
    given: Readonly<Record<string, unknown>>,
    referred: Readonly<Record<string, Resource>>,
    previous?: Readonly<Record<string, unknown>>,
  ) => {
    const before = previous && instanceSpec.parse({ image: "micro", ...previous });
    return deriveSpec(instanceSpec.parse({ image: "micro", ...previous, ...given }), given, referred, before);
  };
  const flavor = flavorOf({});
  const sizes = { cpus: 2, memory_bytes: 4 * GiB, disk_bytes: 40 * GiB };

  t.match(derive({ flavor: "f-x" }, { flavor }), { flavor: "f.x", ...sizes });
  t.match(derive({ flavor: "f.x", disk_bytes: 100 * GiB }, { flavor }), {
    flavor: "f.x",
    disk_bytes: 100 * GiB,
  });
  t.match(derive({ flavor: "f.x", cpus: 2 }, { flavor }), sizes, "saying the same is no contradiction");
  t.equal(await reasonOf(async () => derive({ flavor: "f.x", cpus: 3 }, { flavor })), "VALIDATION_ERROR");
  const retired = { flavor: flavorOf({ active: false }) };
  t.equal(await reasonOf(async () => derive({ flavor: "f.x" }, retired)), "FLAVOR_RETIRED");
  const withGpu = { flavor: flavorOf({ gpu_count: 2 }) };
  t.match(derive({ flavor: "f.x" }, withGpu), { constraints: { gpu: { count: 2, model: null } } });
  t.match(derive({ flavor: "f.x", constraints: { gpu: { count: 2, model: "A100" } } }, withGpu), {
    constraints: { gpu: { count: 2, model: "A100" } },
  });
  for (const attempt of [
    () => derive({ flavor: "f.x", constraints: { gpu: { count: 1 } } }, withGpu),
    () => derive({ flavor: "f.x" }, withGpu, { cpus: 1 }),
  ])
    t.equal(await reasonOf(async () => attempt()), "VALIDATION_ERROR", "a GPU is not added to what is there");

  const large = { flavor: "l", cpus: 8, memory_bytes: 16 * GiB, disk_bytes: 160 * GiB };
  t.match(
    derive({ flavor: "f.x" }, { flavor }, large),
    { flavor: "f.x", cpus: 2, memory_bytes: 4 * GiB, disk_bytes: 160 * GiB },
    "a disk does not shrink",
  );
  t.match(derive({ cpus: 4 }, {}, large), { flavor: null, cpus: 4 }, "its own size from then on");
  t.match(derive({ disk_bytes: 200 * GiB }, {}, large), { flavor: "l", disk_bytes: 200 * GiB });
  t.match(derive({ metadata: { a: "b" } }, {}, large), large);

  const key = toResource("mine", { public_key: "ssh-ed25519 AAAA" });
  t.match(derive({ key_pair: "mine", ssh_keys: ["other"] }, { key_pair: key }), {
    key_pair: "mine",
    ssh_keys: ["other", "ssh-ed25519 AAAA"],
  });
  const image = toResource("big", { min_disk_bytes: 50 * GiB });
  t.equal(await reasonOf(async () => derive({}, { image })), "DISK_TOO_SMALL");

  for (const { name, spec } of builtInFlavors) t.same(flavorSpec.parse(spec), spec, name);
});

void t.test("only the core's names are renamed", async (t) => {
  const rename = renamer({ cpus: "cpu", labels: "tags" });
  const names = ["spec.cpus", "spec.other", "labels.a.b", "cpus", "body"].map(rename);
  t.same(names, ["cpu", "other", "tags.a.b", "cpus", "body"]);
});

/** The content of images: kept once in the database, uploaded, seeded with the cloud, or found behind a URL. */
import { createHash, randomBytes } from "node:crypto";
import { utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { ImageContent } from "#cp/app/image-content.ts";
import { seedImages, type ImageSeedOptions } from "#cp/app/image-seeds.ts";
import { insertResource, resourceColumns, toResource, type ResourceRow } from "#cp/engine/rows.ts";
import { catalogue, seedId } from "#cp/resources/image/catalogue.ts";
import { image as imageKind, type Image } from "#cp/resources/image/image.resource.ts";
import { instance } from "#cp/resources/instance/instance.resource.ts";
import { BlobStore } from "#cp/store/blobs.ts";
import { Database } from "#cp/store/database.ts";
import { systemPrincipal, type Ctx } from "#kernel/ctx.ts";
import { newId } from "#kernel/id.ts";
import { silentLogger } from "#kernel/log.ts";
import { diskHeaderBytes } from "#kernel/qcow2.ts";
import { serve, startFileServer } from "#test/support/file-server.ts";
import { makeImageEngine } from "#test/support/image-engine.ts";
import { withDatabase } from "#test/support/postgres.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const MiB = 1024 ** 2;
const { signal } = new AbortController();
const database = new Database({ url: await withDatabase(t), maxConnections: 6, log: silentLogger });
t.teardown(() => database[Symbol.asyncDispose]());
const blobs = new BlobStore(database);
const sha256Of = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const ctx: Ctx = { log: silentLogger, signal, principal: systemPrincipal, requestId: "test", now: Date.now };

async function* pieces(bytes: Uint8Array, size = 64 * 1024) {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}
async function gather(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of source) parts.push(part);
  return Buffer.concat(parts);
}
const count = async (table: string) => (await database.query(`select 1 from ${table}`)).length;
async function images(): Promise<Map<string, Image>> {
  const rows = await database.query<ResourceRow>(
    `select ${resourceColumns} from resource where kind = 'image'`,
  );
  return new Map(rows.map((row) => [row.name, toResource(row) as Image]));
}
async function imageNamed(name: string): Promise<Image> {
  const found = (await images()).get(name);
  if (!found) throw new Error(`there is no image ${name}`);
  return found;
}
async function insertImage(name: string, source: object, change: object = {}): Promise<string> {
  const desired = imageKind.spec.parse({ source, ...change });
  const { id } = await insertResource(database, imageKind, {
    id: newId("img"),
    project: "root",
    name,
    labels: {},
    desired,
    refs: {},
  });
  return id;
}

await t.test("content is kept once, whole, and read from anywhere", async (t) => {
  const bytes = randomBytes(2.5 * MiB);
  const sha256 = sha256Of(bytes);
  t.same(await blobs.writeStream(pieces(bytes), 3 * MiB, signal), { sha256, sizeBytes: bytes.length });
  t.same(await blobs.writeStream(pieces(bytes, 999_999), 3 * MiB, signal), {
    sha256,
    sizeBytes: bytes.length,
  });
  t.equal(await count("blob"), 1, "the same content is one blob");
  t.equal(await count("blob_chunk"), 3);
  for (const offset of [0, 1, MiB - 1, MiB, 2 * MiB + 5, bytes.length]) {
    t.ok(
      (await gather(blobs.open(sha256, offset, signal))).equals(bytes.subarray(offset)),
      `from ${String(offset)}`,
    );
  }
  t.equal(await reasonOf(gather(blobs.open("0".repeat(64), 0, signal))), "CONTENT_NOT_FOUND");

  t.equal(await reasonOf(blobs.writeStream(pieces(randomBytes(2 * MiB)), MiB, signal)), "CONTENT_TOO_LARGE");
  const cut = (async function* () {
    yield randomBytes(MiB);
    throw new Error("the line was cut");
  })();
  await t.rejects(blobs.writeStream(cut, 3 * MiB, signal), /cut/);
  t.equal(await count("blob"), 1, "what failed leaves nothing");

  t.equal(await blobs.removeUnreferenced(), 0, "young content is about to be named");
  await database.query("update blob set created_at = now() - interval '2 days'");
  const file = { role: "disk", sha256, size_bytes: bytes.length, url: "", format: "raw" };
  const id = await insertImage("keeper", { type: "built-in", files: [file] });
  t.equal(await blobs.removeUnreferenced(), 0, "content that an image names stays");
  await database.query("delete from resource where id = $1", [id]);
  t.equal(await blobs.removeUnreferenced(), 1);
  t.equal(await count("blob_chunk"), 0);
});

await t.test("an upload becomes an image's content", async (t) => {
  let hints = 0;
  const content = new ImageContent({ database, blobs, maxBytes: 3 * MiB, onChange: () => hints++ });
  const id = await insertImage("mine", { type: "upload" });
  const waiting = await insertResource(database, instance, {
    id: newId("vm"),
    project: "root",
    name: "waiting",
    labels: {},
    desired: instance.spec.parse({ image: "mine" }),
    refs: { image: id },
  });
  const upload = (bytes: Uint8Array, to = id, as: Ctx = ctx) =>
    reasonOf(content.upload(as, to, pieces(bytes, 100)));
  const overlay = Buffer.alloc(diskHeaderBytes);
  overlay.write("QFI\xfb", "latin1");
  overlay.set([3], 7);
  overlay.set([112], 15);
  overlay.set([16], 23);

  t.equal(await upload(overlay), "IMAGE_HAS_BACKING_FILE");
  t.equal(await upload(Buffer.alloc(0)), "IMAGE_EMPTY");
  t.equal(await upload(Buffer.alloc(3 * MiB + 1)), "CONTENT_TOO_LARGE");
  const viewer = { ...ctx, principal: { ...systemPrincipal, role: "viewer" as const } };
  t.equal(await upload(Buffer.alloc(10), id, viewer), "ROLE_TOO_LOW");
  const stranger = { ...ctx, principal: { ...systemPrincipal, project: "other" } };
  t.match(await upload(Buffer.alloc(10), id, stranger), /^(IMAGE_NOT_FOUND|OTHER_PROJECT)$/, "seen or not");
  t.equal((await imageNamed("mine")).phase, "pending", "after all that it still waits");

  const bytes = randomBytes(1.5 * MiB);
  t.equal(await upload(bytes), undefined);
  const stored = await imageNamed("mine");
  t.match(stored, { phase: "available", observedGeneration: 1, observed: { bytes_done: bytes.length } });
  t.same(stored.observed?.files, [
    { role: "disk", sha256: sha256Of(bytes), size_bytes: bytes.length, url: "", format: "raw" },
  ]);
  t.ok((await gather(blobs.open(sha256Of(bytes), 0, signal))).equals(bytes));
  t.equal(hints, 1);
  t.equal(
    (await database.query("select 1 from work where key = $1 and run_at <= now()", [waiting.id])).length,
    1,
    "who waits is woken",
  );

  t.equal(await upload(bytes), "HAS_CONTENT");
  t.equal(
    await upload(bytes, await insertImage("linked", { type: "url", url: "https://example.org/x" })),
    "NOT_AN_UPLOAD",
  );
  t.equal(
    await upload(bytes, await insertImage("kernel", { type: "upload" }, { type: "kernel" })),
    "NOT_A_DISK",
  );
  await database.query("delete from resource");
  await database.query("delete from work");
});

await t.test("seeds", async (t) => {
  const [kernel, initrd, disk] = [randomBytes(1000), randomBytes(500), randomBytes(2000)];
  const entry = (role: string, path: string, bytes: Buffer) => ({
    role,
    path,
    sha256: sha256Of(bytes),
    size_bytes: bytes.length,
  });
  const manifest = {
    type: "kernel",
    architecture: "x86_64",
    command_line: "console=ttyS0",
    files: [entry("kernel", "vmlinuz", kernel), entry("initrd", "initrd.gz", initrd)],
  };
  const directory = t.testdir({
    micro: { vmlinuz: kernel, "initrd.gz": initrd, "manifest.json": JSON.stringify(manifest) },
    spoilt: {
      vmlinuz: disk,
      "initrd.gz": initrd,
      "manifest.json": JSON.stringify(manifest).replaceAll(sha256Of(kernel), sha256Of(Buffer.from("other"))),
    },
    "disk.img": disk,
  });
  const seed = (change: Partial<ImageSeedOptions> = {}) =>
    seedImages({
      database,
      blobs,
      microDirectory: join(directory, "micro"),
      overrides: {},
      maxBytes: 10 * MiB,
      log: silentLogger,
      signal,
      ...change,
    });
  const revisions = async () =>
    [...(await images()).values()]
      .map(({ name, revision, deletingAt }) => `${name} ${String(revision)} ${String(deletingAt)}`)
      .sort();
  await insertImage("fedora-41", { type: "upload" });

  await Promise.all([seed(), seed()]);
  const first = await revisions();
  t.equal(first.length, catalogue.length + 1, "the catalogue and micro, but not over somebody's own image");
  t.match(await imageNamed("micro"), {
    phase: "available",
    desired: { type: "kernel", command_line: "console=ttyS0" },
  });
  t.equal((await imageNamed("ubuntu-22.04")).phase, "listed");
  t.equal((await imageNamed("fedora-41")).desired.source.type, "upload");
  t.ok((await gather(blobs.open(sha256Of(initrd), 0, signal))).equals(initrd), "hosts can fetch it");
  await seed();
  t.same(await revisions(), first, "seeding again changes nothing");

  await t.test("names may mean something else", async (t) => {
    const overrides = {
      "Ubuntu 22.04": "micro",
      "ubuntu-20.04-lts": "micro",
      "debian-12": join(directory, "disk.img"),
      golden: "https://example.org/golden.qcow2",
    };
    await seed({ overrides });
    const jammy = await imageNamed("ubuntu-22.04");
    t.match(jammy, { id: seedId("ubuntu-22.04"), phase: "available", desired: { type: "kernel" } });
    t.ok(jammy.desired.aliases.includes("ami-ubuntu2204"), "its aliases come along");
    t.notOk(
      (await imageNamed("ubuntu-20.04")).desired.aliases.includes("ubuntu-20-04-lts"),
      "an alias leaves the image it named",
    );
    t.equal((await imageNamed("ubuntu-20.04-lts")).desired.type, "kernel", "and is one of its own");
    t.match((await imageNamed("debian-12")).observed?.files, [
      { sha256: sha256Of(disk), format: "raw", url: "" },
    ]);
    t.match((await imageNamed("golden")).desired.source, { type: "url", url: overrides.golden });
    const settled = await revisions();
    await seed({ overrides });
    t.same(await revisions(), settled);

    const changed = randomBytes(3000);
    await writeFile(join(directory, "disk.img"), changed);
    await utimes(join(directory, "disk.img"), 1, 1);
    await seed({ overrides });
    t.match(
      (await imageNamed("debian-12")).observed?.files,
      [{ sha256: sha256Of(changed) }],
      "a changed file is read again",
    );

    await seed();
    t.equal((await imageNamed("ubuntu-22.04")).phase, "listed", "without the override it is what it was");
    t.ok((await imageNamed("golden")).deletingAt, "and what stood for nothing else goes");
    t.ok((await imageNamed("ubuntu-20.04")).desired.aliases.includes("ubuntu-20-04-lts"));
  });

  t.equal(await reasonOf(seed({ overrides: { x: join(directory, "nowhere") } })), "IMAGE_OVERRIDE_UNKNOWN");
  t.equal(await reasonOf(seed({ microDirectory: directory })), "IMAGE_MANIFEST_INVALID");
  t.equal(await reasonOf(seed({ microDirectory: join(directory, "spoilt") })), "IMAGE_DIGEST_MISMATCH");
  await database.query("delete from resource");
  await database.query("delete from work");
});

await t.test("the engine resolves URLs", async (t) => {
  const content = randomBytes(200_000);
  const slow = randomBytes(10_000);
  let finishSlow = () => undefined as void;
  const lines = (algorithm: "sha256" | "sha512", bytes: Buffer, name: string) =>
    `${createHash(algorithm).update(bytes).digest("hex")}  ${name}\n`;
  const server = await startFileServer(t, {
    "/good": serve(content),
    "/other": serve(slow),
    "/SHA256SUMS": (_q, response) => response.end(lines("sha256", content, "good")),
    "/SHA512SUMS": (_q, response) =>
      response.end(lines("sha512", content, "good") + lines("sha512", content, "other")),
    "/page": (_q, response) => response.end("<!DOCTYPE html>"),
    "/slow": (_q, response) => {
      response.writeHead(200, { "content-length": slow.length }).write(slow.subarray(0, 5000));
      finishSlow = () => void response.end(slow.subarray(5000));
    },
  });
  const egress = { allowedRanges: ["127.0.0.0/8"], stallMs: 20_000 };
  const engine = makeImageEngine(database, egress);
  t.teardown(() => engine[Symbol.asyncDispose]());
  await engine.start();

  const create = async (name: string, path: string, more: object = {}) => {
    const id = await insertImage(name, { type: "url", url: server.url(path), ...more });
    engine.hint();
    return id;
  };
  const settledAs = async (name: string) => {
    await until(async () => ["available", "failed"].includes((await imageNamed(name)).phase));
    return await imageNamed(name);
  };
  const file = {
    role: "disk",
    sha256: sha256Of(content),
    size_bytes: content.length,
    url: server.url("/good"),
    format: "raw",
  };

  await create("listed", "/good", { checksums_url: server.url("/SHA256SUMS") });
  t.match(await settledAs("listed"), {
    phase: "available",
    observedGeneration: 1,
    observed: { files: [file] },
  });
  t.equal(
    server.asked("/good").at(-1)?.headers.range,
    `bytes=0-${String(diskHeaderBytes - 1)}`,
    "only its beginning is read",
  );
  await create("pinned", "/good", { sha256: file.sha256 });
  t.match((await settledAs("pinned")).observed?.files, [file]);
  await create("bare", "/good");
  t.match((await settledAs("bare")).observed?.files, [file], "the digest is computed when nobody tells it");
  await create("long-sums", "/good", { checksums_url: server.url("/SHA512SUMS") });
  t.match((await settledAs("long-sums")).observed?.files, [file]);

  await create("wrong", "/other", { checksums_url: server.url("/SHA512SUMS") });
  t.match(await settledAs("wrong"), { phase: "failed", problem: { reason: "IMAGE_DIGEST_MISMATCH" } });
  await create("unlisted", "/other", { checksums_url: server.url("/SHA256SUMS") });
  t.match((await settledAs("unlisted")).problem, { reason: "IMAGE_CHECKSUM_MISSING" });
  await create("page", "/page");
  t.match((await settledAs("page")).problem, { reason: "IMAGE_FORMAT_UNSUPPORTED" });
  await create("absent", "/absent");
  t.match((await settledAs("absent")).problem, {
    reason: "IMAGE_SERVER_REFUSED",
    message: /404.*skerry image import/,
  });
  await insertImage("inner", { type: "url", url: "http://10.0.0.1/x" });
  engine.hint();
  t.match((await settledAs("inner")).problem, { reason: "IMAGE_ADDRESS_FORBIDDEN" });

  await create("slow", "/slow");
  await until(async () => (await imageNamed("slow")).observed?.bytes_done === 5000);
  t.match(
    await imageNamed("slow"),
    { phase: "pending", observed: { bytes_total: slow.length, files: [] } },
    "progress is shown",
  );
  finishSlow();
  t.match((await settledAs("slow")).observed?.files, [{ sha256: sha256Of(slow) }]);

  await create("away", "/good", { url: "http://127.0.0.1:1/image" });
  await until(async () => (await imageNamed("away")).problem !== undefined);
  const { problem, id } = await imageNamed("away");
  t.match(
    problem,
    { reason: "IMAGE_CONNECTION_FAILED", stuck: false, message: /skerry image import/ },
    "offline is told, and tried again",
  );
  await database.query("update resource set deleting_at = now() where id = $1", [id]);
  await database.query("update work set run_at = now() where key = $1", [id]);
  engine.hint();
  await until(async () => !(await images()).has("away"));
  t.pass("a deleted image is gone");
});

import { create } from "@bufbuild/protobuf";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { chmod, readdir, readFile, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { defaultDownloadLimits, ImageCache, type ImageCacheOptions } from "#agent/images/cache.ts";
import { ImageSchema, ImageType, type Image } from "#gen/skerry/agent/v1/machine_pb.js";
import { defaultEgressPolicy, egressGet, type EgressPolicy } from "#kernel/egress.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { serve, startFileServer, type Answer } from "#test/support/file-server.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const { signal } = new AbortController();
const egress: EgressPolicy = { allowedRanges: ["127.0.0.0/8"], stallMs: 150 };
const ignore = () => undefined;
const content = randomBytes(300_000);
const half = 150_000;
const sha256Of = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

function cacheIn(directory: string, change: Partial<ImageCacheOptions> = {}): ImageCache {
  const limits = {
    ...defaultDownloadLimits,
    keepFreeBytes: 0,
    attempts: 3,
    backoff: { baseMs: 1, capMs: 5 },
  };
  const fetchFile = () => {
    throw new Fault("notFound", "no such file", { reason: "CONTENT_NOT_FOUND" });
  };
  return new ImageCache({ directory, fetchFile, egress, limits, log: silentLogger, ...change });
}

function diskAt(
  url: string,
  bytes: Uint8Array = content,
  sizeBytes: number = bytes.length,
  format = "",
): Image {
  const file = { role: "disk", sha256: sha256Of(bytes), sizeBytes: BigInt(sizeBytes), url, format };
  return create(ImageSchema, { id: "img-x", type: ImageType.DISK, files: [file] });
}

const everyTime =
  (...answers: readonly [Answer, ...Answer[]]): Answer =>
  (request, response, nth) =>
    (answers[nth] ?? answers.at(-1) ?? answers[0])(request, response, nth);

/** Begins well, from the start each time, and then says nothing more. */
const stall: Answer = (_request, response) => {
  response.writeHead(200, { "content-length": content.length }).write(content.subarray(0, 1000));
};
const redirect =
  (to: string): Answer =>
  (_request, response) =>
    response.writeHead(302, { location: to }).end();

const server = await startFileServer(t, {
  "/good": serve(content),
  "/cut": everyTime(serve(content, { until: half }), serve(content)),
  "/changed": everyTime(serve(randomBytes(300_000), { until: half }), serve(content, { etag: '"v2"' })),
  "/unmarked": everyTime(serve(content, { until: half, etag: "" }), serve(content, { etag: "" })),
  "/stalls-once": everyTime(stall, serve(content)),
  "/stalls": stall,
  "/silent": ignore,
  "/wrong": serve(randomBytes(300_000)),
  "/longer": serve(Buffer.concat([content, content])),
  "/flaky": everyTime((_q, response) => response.writeHead(503).end(), serve(content)),
  "/always-cut": (_request, response) => {
    response.writeHead(200, { "content-length": content.length });
    response.write(content.subarray(0, 1000), () => response.destroy());
  },
  "/to-good": redirect("/good"),
  "/to-private": redirect("http://10.0.0.1/image"),
  "/to-file": redirect("file:///etc/passwd"),
  "/loop": redirect("/loop"),
  "/endless": (_request, response) => {
    const more = () => response.write(Buffer.alloc(65536), (error) => error ?? setImmediate(more));
    more();
  },
  "/SHA256SUMS": (_request, response) =>
    response.end(`${sha256Of(content)} *good\n${sha256Of(content)}  wrong\n`),
  "/SHA512SUMS": (_request, response) =>
    response.end(`${createHash("sha512").update(content).digest("hex")}  good\n${"0".repeat(128)}  wrong\n`),
  "/page": (_request, response) => response.end("<!DOCTYPE html><html></html>"),
});

await t.test("egress reaches what is public or allowed, and nothing else", async (t) => {
  const get = (url: string, policy = egress, maxBytes = 1_000_000) =>
    reasonOf(async () => {
      using answer = await egressGet(url, policy, { signal, maxBytes });
      for await (const _chunk of answer.body);
    });
  const port = new URL(server.url("/")).port;
  const refused = [
    "127.0.0.1",
    "localhost",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "0.0.0.0",
  ];
  for (const host of refused) {
    t.equal(await get(`http://${host}:${port}/good`, defaultEgressPolicy), "ADDRESS_FORBIDDEN", host);
  }
  t.equal(server.asked("/good").length, 0, "nobody was asked");
  for (const url of ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "nonsense"]) {
    t.equal(await get(url), "URL_UNSUPPORTED", url);
  }
  t.equal(await get(server.url("/to-good")), undefined, "redirects are followed");
  t.equal(await get(server.url("/to-private")), "ADDRESS_FORBIDDEN", "but judged anew");
  t.equal(await get(server.url("/to-file")), "URL_UNSUPPORTED");
  t.equal(await get(server.url("/loop")), "TOO_MANY_REDIRECTS");
  t.equal(await get(server.url("/endless")), "TOO_LARGE");
  t.equal(await get(server.url("/silent")), "SERVER_STALLED", "no answer at all");
  t.equal(await get(server.url("/stalls")), "SERVER_STALLED", "an answer that stops");
  t.equal(await get("http://127.0.0.1:1/"), "CONNECTION_FAILED");
  const stop = new AbortController();
  const waiting = egressGet(
    server.url("/silent"),
    { ...egress, stallMs: 60_000 },
    { signal: stop.signal, maxBytes: 1 },
  );
  await until(() => server.asked("/silent").length === 2);
  stop.abort();
  t.equal(await reasonOf(waiting), "CANCELLED");
});

await t.test("an image comes here once", async (t) => {
  const directory = t.testdir();
  const cache = cacheIn(directory);
  const seen: [bigint, bigint][] = [];
  const watch = (done: bigint, total: bigint) => void seen.push([done, total]);
  const before = server.asked("/good").length;
  const image = diskAt(server.url("/good"));
  const [local, same] = await Promise.all([
    cache.ensure(image, watch, signal),
    cache.ensure(image, ignore, signal),
  ]);
  t.match(local, { type: "disk", format: "raw" });
  t.same(same, local);
  t.same(await readFile(local.type === "disk" ? local.path : ""), content);
  t.same(seen.at(-1), [300_000n, 300_000n], "progress ends with all of it");
  t.equal(
    (await cacheIn(directory).ensure(image, ignore, signal)).type,
    "disk",
    "another agent process finds it",
  );
  t.equal(server.asked("/good").length - before, 1, "one download for all of them");

  t.match(await cache.list(), [{ sha256: sha256Of(content), sizeBytes: 300_000n, format: "raw" }]);
  await cache.remove(sha256Of(content));
  await cache.remove(sha256Of(content));
  t.same(await cache.list(), []);
});

await t.test("downloads survive what servers do", async (t) => {
  const fetched = async (path: string, sizeBytes = content.length) => {
    const directory = t.testdir();
    return await reasonOf(
      cacheIn(directory).ensure(diskAt(server.url(path), content, sizeBytes), ignore, signal),
    );
  };
  t.equal(await fetched("/cut"), undefined);
  t.match(server.asked("/cut")[1]?.headers, { range: /^bytes=[1-9]\d*-$/, "if-range": '"v1"' }, "it resumes");
  t.equal(await fetched("/changed"), undefined, "a file that changed meanwhile is fetched from its start");
  t.equal(await fetched("/unmarked", 0), undefined, "without a size or a mark too");
  t.equal(await fetched("/stalls-once"), undefined);
  t.equal(await fetched("/flaky"), undefined);
  t.equal(await fetched("/stalls"), "IMAGE_SERVER_STALLED");
  t.equal(await fetched("/always-cut"), "IMAGE_CONNECTION_FAILED", "no progress: it gives up");
  // Whether the bytes before a cut arrive is up to the network: they count as progress, once, at whichever attempt.
  const asked = server.asked("/always-cut").length;
  t.ok(asked >= 3 && asked <= 6, `after the attempts it has: ${String(asked)}`);
  t.equal(await fetched("/wrong"), "IMAGE_DIGEST_MISMATCH");
  t.equal(server.asked("/wrong").length, 1, "which no retry would mend");
  t.equal(await fetched("/longer"), "IMAGE_TOO_LARGE");
  t.equal(await fetched("/missing"), "IMAGE_SERVER_REFUSED");
  t.equal(server.asked("/missing").length, 1);
  t.equal(await fetched("/to-private"), "IMAGE_ADDRESS_FORBIDDEN");
});

await t.test("a download goes on where an earlier agent process left it", async (t) => {
  const directory = t.testdir({ partial: { [sha256Of(content)]: content.subarray(0, half) } });
  const before = server.asked("/good").length;
  await cacheIn(directory).ensure(diskAt(server.url("/good")), ignore, signal);
  t.equal(server.asked("/good")[before]?.headers.range, `bytes=${String(half)}-`);

  const spoilt = t.testdir({ partial: { [sha256Of(content)]: randomBytes(half) } });
  await cacheIn(spoilt).ensure(diskAt(server.url("/good")), ignore, signal);
  t.pass("and starts over when what was left is not of this file");
});

await t.test("limits of the host", async (t) => {
  const limits = { ...defaultDownloadLimits, attempts: 1 };
  const image = diskAt(server.url("/good"));
  const full = cacheIn(t.testdir(), { limits: { ...limits, keepFreeBytes: Number.MAX_SAFE_INTEGER } });
  t.equal(await reasonOf(full.ensure(image, ignore, signal)), "HOST_DISK_FULL");
  const small = cacheIn(t.testdir(), { limits: { ...limits, keepFreeBytes: 0, maxFileBytes: 1000 } });
  t.equal(await reasonOf(small.ensure(image, ignore, signal)), "IMAGE_TOO_LARGE");
  const unsaid = diskAt(server.url("/good"), content, 0);
  t.equal(await reasonOf(small.ensure(unsaid, ignore, signal)), "IMAGE_TOO_LARGE", "whatever is declared");
});

await t.test("damage on disk is noticed", async (t) => {
  const cache = cacheIn(t.testdir());
  const image = diskAt(server.url("/good"));
  const local = await cache.ensure(image, ignore, signal);
  const path = local.type === "disk" ? local.path : "";
  const { atime, mtime, mode } = await stat(path);
  t.equal(mode & 0o777, 0o444, "nobody writes to it by mistake");
  await chmod(path, 0o644);
  await writeFile(path, randomBytes(content.length));
  await cache.ensure(image, ignore, signal);
  t.same(await readFile(path), content, "a touched file is verified and fetched again");

  await chmod(path, 0o644);
  await utimes(path, atime, mtime);
  const before = server.asked("/good").length;
  await cache.ensure(image, ignore, signal);
  t.equal(server.asked("/good").length, before, "one that was only touched stays");

  const { mtime: stamped } = await stat(path);
  await writeFile(path, randomBytes(content.length));
  await utimes(path, stamped, stamped);
  t.equal(await cache.verify(sha256Of(content), signal), false, "a full check finds what looks untouched");
  t.same(await cache.list(), []);
});

await t.test("disks that reach outside themselves are refused", async (t) => {
  const directory = t.testdir();
  const qemuImg = (...args: string[]) => execFileSync("qemu-img", args, { cwd: directory });
  qemuImg("create", "-q", "-f", "qcow2", "plain.qcow2", "16M");
  qemuImg("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "plain.qcow2", "overlay.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "split.qcow2", "16M");
  const cacheDirectory = join(directory, "cache");
  const ensure = async (name: string, format = "") => {
    const bytes = await readFile(join(directory, name));
    const fetchFile = async function* () {
      yield bytes;
    };
    return await cacheIn(cacheDirectory, { fetchFile }).ensure(
      diskAt("", bytes, bytes.length, format),
      ignore,
      signal,
    );
  };
  t.match(await ensure("plain.qcow2"), { type: "disk", format: "qcow2" });
  t.equal(await reasonOf(ensure("overlay.qcow2")), "IMAGE_HAS_BACKING_FILE");
  t.equal(
    await reasonOf(ensure("overlay.qcow2", "raw")),
    "IMAGE_HAS_BACKING_FILE",
    "whatever it is declared to be",
  );
  t.equal(await reasonOf(ensure("split.qcow2")), "IMAGE_HAS_DATA_FILE");
  await cacheIn(cacheDirectory).remove(sha256Of(await readFile(join(directory, "plain.qcow2"))));
  t.equal(await reasonOf(ensure("plain.qcow2", "raw")), "IMAGE_FORMAT_MISMATCH");
  t.same(await readdir(join(cacheDirectory, "partial")), [], "nothing of them stays");
});

await t.test("files come from the control plane by their digest", async (t) => {
  const offsets: bigint[] = [];
  const fetchFile = async function* (sha256: string, offset: bigint, stop: AbortSignal) {
    offsets.push(offset);
    const at = Number(offset);
    yield content.subarray(at, at + 100_000);
    if (offsets.length === 1) throw new Fault("unavailable", "cut off", { reason: "HOST_NOT_CONNECTED" });
    if (offsets.length === 2)
      await new Promise((_, reject) => stop.addEventListener("abort", () => reject(new Error("closed"))));
    yield content.subarray(at + 100_000);
  };
  const file = (role: string) => ({ role, sha256: sha256Of(content), sizeBytes: BigInt(content.length) });
  const files = [file("kernel"), file("initrd")];
  const image = create(ImageSchema, { type: ImageType.KERNEL, files, commandLine: "quiet" });
  const local = await cacheIn(t.testdir(), { fetchFile }).ensure(image, ignore, signal);
  t.match(local, { type: "kernel", commandLine: "quiet", disk: undefined });
  t.same(offsets, [0n, 100_000n, 200_000n], "cut, stalled, and continued each time");

  const withDisk = [...files, { ...file("disk"), format: "raw" }];
  const whole = create(ImageSchema, { type: ImageType.KERNEL, files: withDisk });
  t.match(await cacheIn(t.testdir(), { fetchFile }).ensure(whole, ignore, signal), {
    type: "kernel",
    disk: { format: "raw", path: /./ },
  });

  const lame = create(ImageSchema, { type: ImageType.KERNEL, files: [file("kernel")] });
  t.equal(
    await reasonOf(cacheIn(t.testdir(), { fetchFile }).ensure(lame, ignore, signal)),
    "IMAGE_INCOMPLETE",
  );
  const evil = create(ImageSchema, {
    type: ImageType.DISK,
    files: [{ role: "disk", sha256: "../../etc/passwd" }],
  });
  t.equal(await reasonOf(cacheIn(t.testdir()).ensure(evil, ignore, signal)), "IMAGE_DIGEST_INVALID");
  t.equal(await reasonOf(cacheIn(t.testdir()).remove("..")), "IMAGE_DIGEST_INVALID");
  t.equal(
    await reasonOf(cacheIn(t.testdir()).ensure(diskAt("", content), ignore, signal)),
    "IMAGE_CONTENT_NOT_FOUND",
  );
});

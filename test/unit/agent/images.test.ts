import { execFileSync } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import t from "tap";
import { buildMicro } from "#agent/images/micro/build.ts";
import { packInitramfs, type ArchiveEntry } from "#agent/images/micro/cpio.ts";
import { moduleDependencies, moduleName, orderModules } from "#agent/images/micro/modules.ts";
import { downloadPackages } from "#agent/images/micro/packages.ts";
import { runTool, type Run } from "#agent/images/micro/tools.ts";
import { SharedWork } from "#agent/images/shared-work.ts";
import { Fault } from "#kernel/fault.ts";
import { silentLogger } from "#kernel/log.ts";
import { reasonOf } from "#test/support/reason-of.ts";
import { until } from "#test/support/until.ts";

const { signal } = new AbortController();

await t.test("the archive is one that cpio reads", async (t) => {
  const entries: ArchiveEntry[] = [
    { type: "directory", path: "bin" },
    { type: "file", path: "bin/run", content: Buffer.from("odd"), executable: true },
    { type: "file", path: "notes", content: Buffer.from("four"), executable: false },
    { type: "device", path: "console", major: 5, minor: 1 },
  ];
  const archive = packInitramfs(entries);
  const listing = execFileSync("cpio", ["-tv", "--quiet"], { input: archive, encoding: "utf8" }).split("\n");
  const expected = [
    /^drwxr-xr-x .* bin$/,
    /^-rwxr-xr-x .* 3 .*bin\/run$/,
    /^-rw-r--r-- .* 4 .*notes$/,
    /^crw-+ .*5, +1 .*console$/,
  ];
  expected.forEach((pattern, i) => t.match(listing[i], pattern));
  t.equal(
    execFileSync("cpio", ["-i", "--quiet", "--to-stdout", "bin/run"], { input: archive, encoding: "utf8" }),
    "odd",
  );
  t.ok(packInitramfs(entries).equals(archive), "the same entries give the same bytes");
});

await t.test("modules come after what they depend on", async (t) => {
  t.equal(moduleName("kernel/drivers/char/virtio-rng.ko.xz"), "virtio_rng");
  const moduleOf = (depends: string) => Buffer.from(`\0alias=x\0depends=${depends}\0name=y\0`);
  t.same(moduleDependencies(moduleOf("net-failover,virtio")), ["net_failover", "virtio"]);
  t.same(moduleDependencies(moduleOf("")), []);
  t.same(moduleDependencies(Buffer.from("not a module")), []);
  const tree: Record<string, string> = {
    virtio_net: "net-failover,virtio",
    net_failover: "failover",
    failover: "",
    virtio: "virtio_ring",
    virtio_ring: "virtio", // a loop must not hang the build
  };
  const read = async (name: string) => (name in tree ? moduleOf(tree[name] ?? "") : undefined);
  const ordered = await orderModules(["virtio_net", "builtin", "virtio"], read);
  t.same([...ordered.keys()], ["failover", "net_failover", "virtio_ring", "virtio", "virtio_net"]);
});

/** A package source with these packages; records what it was asked. */
function fakeApt(known: Record<string, string>, asked: string[][] = []): Run {
  return async (argv, { cwd }) => {
    asked.push([...argv]);
    const name = argv.at(-1) ?? "";
    if (argv[0] === "apt-cache") {
      if (name in known) return `Package: ${name}\nDepends: ${known[name] ?? ""}\n`;
      throw new Fault("unavailable", "no packages found");
    }
    if (argv.includes("download")) {
      const names = argv.slice(argv.indexOf("download") + 1);
      for (const each of names) await writeFile(join(cwd ?? "", `${each}_1.10_amd64.deb`), "");
    }
    return "";
  };
}
const userland = {
  "busybox-static": "",
  e2fsprogs: "",
  "libcom-err2": "",
  libblkid1: "",
  libuuid1: "",
  libc6: "",
};

await t.test("packages are found under the names of each distribution", async (t) => {
  const download = async (known: Record<string, string>, asked?: string[][]) => {
    const downloads = t.testdir({ "libc6_1.9_amd64.deb": "old" });
    const run = fakeApt({ ...userland, ...known }, asked);
    const found = await downloadPackages({ run, downloads, log: silentLogger, signal }, "x86_64");
    return found.map((path) => basename(path).replace("_amd64.deb", ""));
  };
  const debian = { "linux-image-cloud-amd64": "linux-image-6.1.0-9-cloud-amd64 (= 6.1)", libext2fs2: "" };
  t.same(await download(debian), [
    "linux-image-6.1.0-9-cloud-amd64_1.10",
    ...["busybox-static", "e2fsprogs", "libext2fs2", "libcom-err2", "libblkid1", "libuuid1", "libc6"].map(
      (n) => `${n}_1.10`,
    ),
  ]);
  const ubuntu = {
    "linux-image-virtual": "linux-image-6.8.0-31-generic",
    "linux-image-6.8.0-31-generic": "",
    "linux-modules-6.8.0-31-generic": "",
    libext2fs2t64: "",
    libext2fs2: "",
  };
  const names = await download(ubuntu);
  t.same(names.slice(0, 2), ["linux-image-6.8.0-31-generic_1.10", "linux-modules-6.8.0-31-generic_1.10"]);
  t.ok(names.includes("libext2fs2t64_1.10"), "the newer name is preferred");
  const asked: string[][] = [];
  t.equal(await reasonOf(download({}, asked)), "PACKAGE_NOT_FOUND");
  t.ok(
    asked.some((argv) => argv.includes("update")),
    "it tried again with fresh lists of its own",
  );
});

await t.test("a missing program is named by its package", async (t) => {
  const failure = await runTool(["dpkg-deb-of-another-world"], { signal }).catch(
    (error: unknown) => error as Fault,
  );
  t.match(failure, { reason: "PACKAGE_MISSING", message: /dpkg-deb-of-another-world/, retryable: false });
});

await t.test("a build is made once, anew when it is damaged, and leaves nothing when it fails", async (t) => {
  const directory = t.testdir();
  const outDir = join(directory, "micro");
  let unpacked = 0;
  const apt = fakeApt({
    ...userland,
    libext2fs2: "",
    "linux-image-cloud-amd64": "linux-image-1-cloud",
    "linux-image-cloud-arm64": "linux-image-1-cloud",
  });
  const run: Run = async (argv, options) => {
    if (argv[0] !== "dpkg-deb") return await apt(argv, options);
    unpacked++;
    const root = argv.at(-1) ?? "";
    for (const path of [
      "boot/vmlinuz-1",
      "bin/busybox",
      "sbin/mke2fs",
      "sbin/resize2fs",
      "lib/libext2fs.so.2",
    ]) {
      await mkdir(join(root, path, ".."), { recursive: true });
      await writeFile(join(root, path), `content of ${path} that needs libext2fs.so.2\0`);
    }
    return "";
  };
  const build = () => buildMicro({ outDir, signal, log: silentLogger, run });
  const manifest = await build();
  t.same(
    manifest.files.map(({ role, path }) => [role, path]),
    [
      ["kernel", "vmlinuz"],
      ["initrd", "initrd.gz"],
    ],
  );
  const once = unpacked;
  t.same(await build(), manifest);
  t.equal(unpacked, once, "the second call does nothing");
  await writeFile(join(outDir, "initrd.gz"), "torn");
  t.same(await build(), manifest, "a damaged build is made again, the same");
  t.equal((await readFile(join(outDir, "initrd.gz"))).length, manifest.files[1]?.size_bytes);

  const broken: Run = async () => {
    throw new Fault("unavailable", "no network", { reason: "MICRO_BUILD_FAILED" });
  };
  const elsewhere = join(directory, "other");
  t.equal(
    await reasonOf(buildMicro({ outDir: elsewhere, signal, log: silentLogger, run: broken })),
    "MICRO_BUILD_FAILED",
  );
  t.same(
    execFileSync("ls", ["-A", directory], { encoding: "utf8" })
      .trim()
      .split("\n")
      .filter((n) => n.startsWith(".micro")),
    [],
  );
});

await t.test("shared work", async (t) => {
  const work = new SharedWork<string>();
  let starts = 0;
  let stopped = 0;
  const finish: ((value: string) => void)[] = [];
  const start = (progress: (done: bigint, total: bigint) => void, stop: AbortSignal) => {
    starts++;
    progress(1n, 2n);
    return new Promise<string>((resolve, reject) => {
      finish.push(resolve);
      stop.addEventListener("abort", () => {
        stopped++;
        reject(new Fault("unavailable", "stopped"));
      });
    });
  };
  const ignore = () => undefined;

  await t.test("is done once for all who want it", async (t) => {
    const both = [work.join("a", start, ignore, signal), work.join("a", start, ignore, signal)];
    await until(() => finish.length === 1);
    finish.shift()?.("done");
    t.same(await Promise.all(both), ["done", "done"]);
    t.equal(starts, 1);
  });

  await t.test("goes on while one still waits, and stops with the last", async (t) => {
    const [first, second] = [new AbortController(), new AbortController()];
    const early = work.join("b", start, ignore, first.signal);
    const late = work.join("b", start, ignore, second.signal);
    first.abort();
    t.equal(await reasonOf(early), "CANCELLED");
    t.equal(stopped, 0);
    second.abort();
    t.equal(await reasonOf(late), "CANCELLED");
    t.equal(stopped, 1);
    finish.length = 0;
    const again = work.join("b", start, ignore, signal);
    await until(() => finish.length === 1);
    finish.shift()?.("anew");
    t.equal(await again, "anew", "who comes later starts anew");
  });
});

/**
 * The guest `warm`: a Debian or Ubuntu userland of the host's own release as a disk image that boots itself,
 * built from distribution packages the first time (about two minutes) and kept. When it has booted and read
 * every file of its disk once, so that its page cache holds the image, it says so on its console and ticks.
 *
 *     node --conditions=development --import=tsx test/support/guests/warm.ts
 *
 * Needs root, for the maintainers' scripts run in a chroot. Packages that only build are unpacked beside
 * the result and never installed.
 */
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { exec } from "#agent/exec.ts";
import { root as checkout } from "#cp/local/programs.ts";
import { Fault } from "#kernel/fault.ts";
import { makeBootableDisk } from "./bootable-disk.ts";
import { readyLine, tickLoop } from "./console-lines.ts";

/** Raised when the recipe changes in a way that the lists below do not show. */
const recipeVersion = 1;
const stepLimitMs = 15 * 60_000;

/** What builds: unpacked only. */
const tools = ["mmdebstrap", "syslinux", "syslinux-common", "mtools"];

/** What a small server has. Enough programs and libraries that a warm page cache means something. */
const packages = [
  ...["systemd-sysv", "udev", "dbus", "iproute2", "procps", "openssh-server", "ca-certificates"],
  ...["e2fsprogs", "initramfs-tools", "python3-minimal", "perl", "git", "vim-tiny"],
];
const kernels: Readonly<Record<string, string>> = {
  debian: "linux-image-cloud-amd64",
  ubuntu: "linux-virtual",
};

/** Runs once the system is up. */
const service = `[Unit]
Description=Reads every file, then says so
After=multi-user.target
[Service]
ExecStart=/usr/local/sbin/warm
StandardOutput=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
`;
const script = `#!/bin/sh
find / -xdev -type f -exec cat {} + >/dev/null 2>&1
echo ${readyLine}
${tickLoop}
`;
/** Work that comes by itself minutes after the boot would make one run unlike the next. */
const maskedUnits = [
  ...["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"],
  ...["fstrim.timer", "systemd-tmpfiles-clean.timer", "serial-getty@ttyS0.service"],
];

export interface WarmGuest {
  /** The disk image, qcow2. */
  readonly image: string;
  readonly sizeBytes: number;
}

/** Where it is kept, beside the micro guest. */
export const warmDirectory = path.join(checkout, "node_modules/.cache/skerry/warm");

/** Gives the image, building it when it is not there. */
export async function ensureWarmGuest(signal: AbortSignal, say: (line: string) => void): Promise<WarmGuest> {
  const stamp = stampOf();
  const kept = path.join(warmDirectory, stamp);
  const image = path.join(kept, "warm.qcow2");
  if (!(await exists(image))) {
    say("Building the warm guest from distribution packages; this happens once ...");
    await mkdir(warmDirectory, { recursive: true });
    const work = await mkdtemp(path.join(warmDirectory, ".build-"));
    try {
      await build(work, signal);
      await rename(path.join(work, "result"), kept);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }
  return { image, sizeBytes: (await stat(image)).size };
}

async function build(work: string, signal: AbortSignal): Promise<void> {
  if (process.getuid?.() !== 0) {
    throw new Fault("denied", "the warm guest is built by root only", { reason: "ROOT_NEEDED" });
  }
  const run = async (program: string, args: readonly string[], cwd = work, env = {}) =>
    (await exec(program, args, { cwd, signal, env, timeoutMs: stepLimitMs })).stdout;
  const release = await readRelease();
  const toolRoot = path.join(work, "tools");
  await mkdir(toolRoot);
  await run("apt-get", ["-qq", "download", ...tools], toolRoot);
  for (const file of await readdir(toolRoot)) await run("dpkg-deb", ["-x", file, "."], toolRoot);

  const tree = path.join(work, "tree");
  const included = [...packages, release.kernel].join(",");
  await run(
    "perl",
    [
      ...[path.join(toolRoot, "usr/bin/mmdebstrap"), "--quiet", "--mode=root", "--variant=minbase"],
      ...["--format=directory", `--include=${included}`, "--aptopt=APT::Install-Recommends false"],
      ...[release.codename, tree],
    ],
    work,
    { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` },
  );
  await customise(tree, run);

  const result = path.join(work, "result");
  await mkdir(result);
  const raw = path.join(work, "disk.raw");
  await makeBootableDisk({ tree, toolRoot, raw, run });
  await run("qemu-img", ["convert", "-q", "-O", "qcow2", raw, path.join(result, "warm.qcow2")]);
}

async function customise(tree: string, run: (program: string, args: readonly string[]) => Promise<string>) {
  await rm(path.join(tree, "var/cache/apt"), { recursive: true, force: true });
  await writeFile(path.join(tree, "etc/fstab"), "/dev/vda2 / ext4 defaults,discard 0 1\n");
  await writeFile(path.join(tree, "etc/hostname"), "warm\n");
  await writeFile(path.join(tree, "usr/local/sbin/warm"), script, { mode: 0o755 });
  await writeFile(path.join(tree, "etc/systemd/system/warm.service"), service);
  await run("chroot", [tree, "systemctl", "--quiet", "enable", "warm.service"]);
  await run("chroot", [tree, "systemctl", "--quiet", "mask", ...maskedUnits]);
}

interface Release {
  readonly codename: string;
  readonly kernel: string;
}

/** Of the host: its package sources are known to be reachable. */
async function readRelease(): Promise<Release> {
  const text = await readFile("/etc/os-release", "utf8");
  const valueOf = (key: string) => new RegExp(`^${key}="?([^"\n]*)`, "m").exec(text)?.[1] ?? "";
  const kernel = kernels[valueOf("ID")];
  const codename = valueOf("VERSION_CODENAME");
  if (kernel === undefined || codename === "") {
    throw new Fault("unavailable", "the warm guest is built on Debian or Ubuntu only", {
      reason: "DISTRIBUTION_UNKNOWN",
    });
  }
  return { codename, kernel };
}

function stampOf(): string {
  const recipe = [recipeVersion, packages, kernels, service, script, maskedUnits];
  return createHash("sha256").update(JSON.stringify(recipe)).digest("hex").slice(0, 16);
}

async function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return false;
      throw error;
    },
  );
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => interrupted.abort());
  const say = (line: string) => void process.stdout.write(`${line}\n`);
  const { image, sizeBytes } = await ensureWarmGuest(interrupted.signal, say);
  say(`${image}: ${String(Math.round(sizeBytes / 1e6))} MB`);
}

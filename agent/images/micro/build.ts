/**
 * Builds `micro`, the guest that comes with Skerry: the distribution's cloud kernel, and an initial
 * file system of busybox, the few modules a virtual machine needs and the scripts in `rootfs/`.
 *
 * A build is made in a temporary folder and renamed, so a folder with a stamp is complete. The stamp
 * covers the scripts and this recipe: changing them builds anew.
 */
import { createHash } from "node:crypto";
import { cp, mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { Fault } from "#kernel/fault.ts";
import { createLogger, type Logger } from "#kernel/log.ts";
import { packInitramfs } from "./cpio.ts";
import { collectGuest, findKernel, readRootfs } from "./guest.ts";
import { downloadPackages, type GuestArchitecture } from "./packages.ts";
import { runTool, type Run } from "./tools.ts";

export interface MicroManifest {
  readonly type: "kernel";
  readonly architecture: GuestArchitecture;
  readonly command_line: string;
  readonly files: readonly {
    readonly role: "kernel" | "initrd";
    /** Relative to the manifest. */
    readonly path: string;
    readonly sha256: string;
    readonly size_bytes: number;
  }[];
}

export interface BuildMicroOptions {
  readonly outDir: string;
  readonly signal: AbortSignal;
  readonly log: Logger;
  readonly run?: Run;
}

/** Raised when the recipe changes in a way that the scripts do not show. */
const recipeVersion = 1;

const commandLines: Record<GuestArchitecture, string> = {
  // earlyprintk: the serial port speaks before the kernel has a driver for it. swiotlb: with room for memory
  // to be plugged in, the kernel would set 64 MiB aside for devices that cannot reach it; there are none.
  x86_64: "console=ttyS0 earlyprintk=ttyS0,115200 loglevel=4 panic=-1 swiotlb=noforce",
  aarch64: "console=ttyAMA0 earlycon loglevel=4 panic=-1",
};

/** Makes `vmlinuz`, `initrd.gz` and `manifest.json` in `outDir`; does nothing when they are there. */
export async function buildMicro(options: BuildMicroOptions): Promise<MicroManifest> {
  const outDir = resolve(options.outDir);
  const architecture = guestArchitecture();
  const stamp = await stampOf(architecture);
  const present = await readComplete(outDir, stamp);
  if (present) return present;

  const parent = dirname(outDir);
  await mkdir(parent, { recursive: true });
  const work = await mkdtemp(join(parent, ".micro-"));
  try {
    const manifest = await buildInto(work, architecture, { ...options, outDir });
    const result = join(work, "result");
    await writeFile(join(result, "stamp"), stamp);
    await rm(outDir, { recursive: true, force: true });
    // Two builds at once: the second rename meets the first one's result, which is as good.
    await rename(result, outDir).catch(async (error: unknown) => {
      if (!(await readComplete(outDir, stamp))) throw error;
    });
    options.log.info("micro.built", { directory: outDir });
    return manifest;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function buildInto(
  work: string,
  architecture: GuestArchitecture,
  { outDir, signal, log, run = runTool }: BuildMicroOptions,
): Promise<MicroManifest> {
  const downloads = `${outDir}.packages`;
  const packages = await downloadPackages({ run, downloads, log, signal }, architecture);
  const unpacked = join(work, "unpacked");
  for (const file of packages) await run(["dpkg-deb", "-x", file, unpacked], { signal });

  const result = join(work, "result");
  await mkdir(result);
  await cp(await findKernel(unpacked), join(result, "vmlinuz"));
  const initramfs = packInitramfs(await collectGuest(unpacked, { run, signal }));
  await writeFile(join(result, "initrd.gz"), await promisify(gzip)(initramfs, { level: 9 }));

  const manifest: MicroManifest = {
    type: "kernel",
    architecture,
    command_line: commandLines[architecture],
    files: [
      { role: "kernel", ...(await describe(result, "vmlinuz")) },
      { role: "initrd", ...(await describe(result, "initrd.gz")) },
    ],
  };
  await writeFile(join(result, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
  return manifest;
}

async function describe(directory: string, path: string) {
  const content = await readFile(join(directory, path));
  return { path, sha256: createHash("sha256").update(content).digest("hex"), size_bytes: content.length };
}

/** The manifest of a build that is there, whole and of this recipe. */
async function readComplete(directory: string, stamp: string): Promise<MicroManifest | undefined> {
  try {
    if ((await readFile(join(directory, "stamp"), "utf8")) !== stamp) return undefined;
    const manifest = JSON.parse(await readFile(join(directory, "manifest.json"), "utf8")) as MicroManifest;
    for (const file of manifest.files) {
      if ((await stat(join(directory, file.path))).size !== file.size_bytes) return undefined;
    }
    return manifest;
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

async function stampOf(architecture: GuestArchitecture): Promise<string> {
  const hash = createHash("sha256").update(`${String(recipeVersion)}\n${commandLines[architecture]}\n`);
  for (const entry of await readRootfs()) {
    if (entry.type === "file")
      hash.update(`${entry.path}\0${String(entry.executable)}\0`).update(entry.content);
  }
  return hash.digest("hex");
}

function guestArchitecture(): GuestArchitecture {
  if (process.arch === "x64") return "x86_64";
  if (process.arch === "arm64") return "aarch64";
  throw new Fault("invalid", `micro cannot be built for ${process.arch}`, { reason: "ARCHITECTURE_UNKNOWN" });
}

async function main(): Promise<void> {
  const outDir = process.argv[2];
  if (!outDir) throw new Fault("invalid", "usage: build <folder>", { reason: "USAGE" });
  const interrupted = new AbortController();
  process.once("SIGINT", () => interrupted.abort());
  process.once("SIGTERM", () => interrupted.abort());
  const log = createLogger({ level: "info", write: (line) => process.stderr.write(`${line}\n`) });
  await buildMicro({ outDir, log, signal: interrupted.signal });
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  await main().catch((error: unknown) => {
    process.stderr.write(`error: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  });
}

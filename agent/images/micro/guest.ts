/** Gathers what goes into the guest's initial file system, from unpacked packages and `rootfs/`. */
import { existsSync } from "node:fs";
import { readdir, readFile, rm, stat } from "node:fs/promises";
import { basename, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { Fault } from "#kernel/fault.ts";
import type { ArchiveEntry } from "./cpio.ts";
import { moduleName, orderModules, wantedModules } from "./modules.ts";
import type { Run } from "./tools.ts";

/** Programs that busybox has no equal for: a journal, lazy formatting, growing while mounted. */
const filesystemTools = ["mke2fs", "resize2fs"];

interface Tools {
  readonly run: Run;
  readonly signal: AbortSignal;
}

/** Everything in the guest's initial file system, parents first. */
export async function collectGuest(unpacked: string, tools: Tools): Promise<ArchiveEntry[]> {
  const tree = indexByName(await listFiles(unpacked));
  const files = [
    ...(await readRootfs()),
    await executable("bin/busybox", find(tree, "busybox")),
    ...(await collectTools(tree)),
    ...(await collectModules(tree, tools)),
  ];
  const console: ArchiveEntry = { type: "device", path: "dev/console", major: 5, minor: 1 };
  return [...parentsOf([...files, console]), ...files, console];
}

/** The scripts that come with this module; `tsc` leaves them with the sources. */
export async function readRootfs(): Promise<ArchiveEntry[]> {
  const beside = fileURLToPath(new URL("rootfs", import.meta.url));
  const directory = existsSync(beside) ? beside : beside.replace(/\/dist\/(?!.*\/dist\/)/, "/");
  const paths = (await listFiles(directory)).sort();
  return await Promise.all(
    paths.map(async (path): Promise<ArchiveEntry> => {
      const executable = ((await stat(path)).mode & 0o100) !== 0;
      return { type: "file", path: relative(directory, path), content: await readFile(path), executable };
    }),
  );
}

/** The kernel among the unpacked packages. */
export async function findKernel(unpacked: string): Promise<string> {
  const kernel = (await listFiles(join(unpacked, "boot"))).find((path) =>
    basename(path).startsWith("vmlinuz-"),
  );
  if (!kernel)
    throw new Fault("internal", "the kernel package has no kernel", { reason: "PACKAGE_UNEXPECTED" });
  return kernel;
}

/** The tools with the shared libraries that they name, found by the names in their string tables. */
async function collectTools(tree: ReadonlyMap<string, string>): Promise<ArchiveEntry[]> {
  const entries: ArchiveEntry[] = [];
  const libraries = new Set<string>();
  for (const tool of filesystemTools) {
    entries.push(await executable(`sbin/${tool}`, find(tree, tool)));
  }
  for (const entry of entries) {
    if (entry.type !== "file") continue;
    for (const [name] of Buffer.from(entry.content)
      .toString("latin1")
      .matchAll(/\b(?:lib|ld-)[\w-]+\.so\.\d\b/g)) {
      const path = tree.get(name);
      if (!path || libraries.has(name)) continue;
      libraries.add(name);
      entries.push(await executable(`${name.startsWith("ld-") ? loaderFolder(name) : "lib"}/${name}`, path));
    }
  }
  return entries;
}

/** Where programs expect the loader: the one path that is written into them. */
const loaderFolder = (loader: string) => (loader.includes("x86-64") ? "lib64" : "lib");

async function collectModules(tree: ReadonlyMap<string, string>, tools: Tools): Promise<ArchiveEntry[]> {
  const modules = new Map<string, string>();
  for (const [name, path] of tree) if (/\.ko(\.\w+)?$/.test(name)) modules.set(moduleName(name), path);
  const ordered = await orderModules(wantedModules, async (name) => {
    const path = modules.get(name);
    return path ? await readModule(path, tools) : undefined;
  });
  const order = [...ordered.keys()].map((name) => `${name}.ko\n`).join("");
  return [
    { type: "file", path: "lib/modules/order", content: Buffer.from(order), executable: false },
    ...[...ordered].map(([name, content]): ArchiveEntry => {
      return { type: "file", path: `lib/modules/${name}.ko`, content, executable: false };
    }),
  ];
}

const decompressors: Readonly<Record<string, readonly [string, ...string[]]>> = {
  ".zst": ["zstd", "-q", "-d", "-f", "-o"],
  ".xz": ["xz", "-d", "-k", "-f"],
};

/** Some distributions compress each module, in ways that busybox may not know. */
async function readModule(path: string, { run, signal }: Tools): Promise<Buffer> {
  const suffix = path.slice(path.lastIndexOf("."));
  const decompress = decompressors[suffix];
  if (!decompress) return await readFile(path);
  const plain = path.slice(0, -suffix.length);
  await run(suffix === ".zst" ? [...decompress, plain, path] : [...decompress, path], { signal });
  const content = await readFile(plain);
  await rm(plain);
  return content;
}

async function executable(path: string, from: string): Promise<ArchiveEntry> {
  return { type: "file", path, content: await readFile(from), executable: true };
}

function find(tree: ReadonlyMap<string, string>, name: string): string {
  const path = tree.get(name);
  if (!path) {
    throw new Fault("internal", `the packages hold no ${name}`, {
      reason: "PACKAGE_UNEXPECTED",
      detail: { name },
    });
  }
  return path;
}

async function listFiles(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
}

/** Programs win over completions and configuration of the same name. */
function indexByName(paths: readonly string[]): Map<string, string> {
  const index = new Map<string, string>();
  for (const path of paths) {
    if (!index.has(basename(path)) || /\/s?bin\/[^/]+$/.test(path)) index.set(basename(path), path);
  }
  return index;
}

function parentsOf(entries: readonly ArchiveEntry[]): ArchiveEntry[] {
  const parents = new Set<string>();
  for (const { path } of entries) {
    const parts = path.split("/").slice(0, -1);
    parts.forEach((_, depth) => parents.add(parts.slice(0, depth + 1).join("/")));
  }
  return [...parents].sort().map((path) => ({ type: "directory", path }));
}

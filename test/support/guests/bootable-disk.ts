/**
 * A disk image that a PC's firmware boots, made without loop devices: a small FAT file system with the boot
 * loader, kernel and initial file system, then the tree as ext4. The partition table is written here: it is
 * two entries of sixteen bytes.
 */
import { open, readdir, truncate, writeFile } from "node:fs/promises";
import path from "node:path";
import { Fault } from "#kernel/fault.ts";

export interface BootableDiskOptions {
  /** The root file system. */
  readonly tree: string;
  /** Where `syslinux` and `mtools` were unpacked. */
  readonly toolRoot: string;
  /** The file to make. */
  readonly raw: string;
  readonly run: (program: string, args: readonly string[]) => Promise<string>;
}

const MiB = 2 ** 20;
const sectorBytes = 512;
const diskMiB = 1024;
const bootAtMiB = 1;
const bootMiB = 64;
const rootAtMiB = bootAtMiB + bootMiB;
const rootMiB = diskMiB - rootAtMiB;
const partitionTableAt = 446;

const bootConfiguration = `DEFAULT linux
PROMPT 0
LABEL linux
 KERNEL /vmlinuz
 INITRD /initrd
 APPEND root=/dev/vda2 rw console=ttyS0 net.ifnames=0 panic=-1 loglevel=4 systemd.show_status=0
`;

export async function makeBootableDisk({ tree, toolRoot, raw, run }: BootableDiskOptions): Promise<void> {
  const tool = (name: string, ...args: string[]) => run(path.join(toolRoot, "usr/bin", name), args);
  const boot = `${raw}.boot`;
  await writeFile(boot, "");
  await truncate(boot, bootMiB * MiB);
  const sectors = (mib: number) => (mib * MiB) / sectorBytes;
  await tool(
    "mformat",
    ...["-i", boot, "-F", "-T", String(sectors(bootMiB)), "-h", "16", "-s", "32"],
    ...["-H", String(sectors(bootAtMiB)), "::"],
  );
  const configuration = `${raw}.cfg`;
  await writeFile(configuration, bootConfiguration);
  await tool("mcopy", "-i", boot, await findBootFile(tree, "vmlinuz-"), "::vmlinuz");
  await tool("mcopy", "-i", boot, await findBootFile(tree, "initrd.img-"), "::initrd");
  await tool("mcopy", "-i", boot, configuration, "::syslinux.cfg");
  // The installer calls `mtools` by name.
  const search = `PATH=${path.join(toolRoot, "usr/bin")}:${process.env["PATH"] ?? ""}`;
  await run("env", [search, path.join(toolRoot, "usr/bin/syslinux"), "--install", boot]);

  await writeFile(raw, "");
  await truncate(raw, diskMiB * MiB);
  const copy = ["bs=1M", "conv=notrunc,sparse", "status=none"];
  await run("dd", [`if=${boot}`, `of=${raw}`, `seek=${String(bootAtMiB)}`, ...copy]);
  const offset = String(rootAtMiB * MiB);
  await run("/usr/sbin/mkfs.ext4", [
    ...["-q", "-F", "-L", "root", "-d", tree, "-E", `offset=${offset}`],
    ...[raw, `${String(rootMiB)}M`],
  ]);
  await using disk = await open(raw, "r+");
  const loader = await open(path.join(toolRoot, "usr/lib/SYSLINUX/mbr.bin"), "r");
  await using _loader = loader;
  await disk.write(await loader.readFile(), 0, undefined, 0);
  const table = Buffer.concat([
    partition(0x80, 0x0c, sectors(bootAtMiB), sectors(bootMiB)),
    partition(0, 0x83, sectors(rootAtMiB), sectors(rootMiB)),
    Buffer.alloc(32),
    Buffer.from([0x55, 0xaa]),
  ]);
  await disk.write(table, 0, undefined, partitionTableAt);
}

/** Addresses by sector only: what reads them has long ignored cylinders and heads. */
function partition(flag: number, type: number, first: number, count: number): Buffer {
  const entry = Buffer.alloc(16);
  entry.set([flag, 0xfe, 0xff, 0xff, type, 0xfe, 0xff, 0xff]);
  entry.writeUInt32LE(first, 8);
  entry.writeUInt32LE(count, 12);
  return entry;
}

async function findBootFile(tree: string, prefix: string): Promise<string> {
  const name = (await readdir(path.join(tree, "boot"))).find((entry) => entry.startsWith(prefix));
  if (name === undefined) {
    throw new Fault("internal", `the packages brought no ${prefix}`, { reason: "PACKAGE_UNEXPECTED" });
  }
  return path.join(tree, "boot", name);
}
